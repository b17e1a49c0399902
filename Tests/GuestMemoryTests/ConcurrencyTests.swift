import CTouch
import Foundation
import Testing

@testable import GuestMemory

/// Several threads on one memory. The clock is real here where the kernel is, so waits are kept short.
@Suite struct ConcurrencyTests {
    /// Runs the bodies on a thread each and returns when all are done.
    func together(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        let group = DispatchGroup()
        for index in 0..<count {
            group.enter()
            Thread {
                body(index)
                group.leave()
            }.start()
        }
        group.wait()
    }

    @Test(arguments: TestKernel.available)
    func overlappingConversionsAgreeInTheEnd(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        (memory.system as? EmulatedKernel)?.registeredThreads = 4
        let seed = UInt64.random(in: 1 ... .max)
        print("overlappingConversionsAgreeInTheEnd: seed \(seed)")
        together(4) { thread in
            var random = SeededRandom(seed: seed &+ UInt64(thread))
            for _ in 0..<300 {
                let start = random.next() % 200
                let count = 1 + random.next() % 40
                let state: Shareability = random.next() & 1 == 0 ? .shared : .private
                do {
                    try memory.convert(pages(start, count), to: state)
                } catch {
                    Issue.record("\(error)")
                }
            }
            // A thread that is gone blocks no clock.
            (memory.system as? EmulatedKernel)?.unregisterThread()
        }
        for index in UInt64(0)..<256 {
            let state = memory.shareability(at: index * pageBytes)
            let info = memory.regionInfos[0]
            let touch = unsafe ctouch_read(
                UnsafeMutableRawPointer(bitPattern: info.hostAddress + UInt(index * pageBytes))!)
            #expect(touch.signal == (state == .shared ? 0 : memory.level.signal))
        }
        #expect(memory.statistics.leases == 0)
        try memory.close()
    }

    /// Copies race with conversions of the same pages: they succeed or are refused, and never fault.
    @Test(arguments: TestKernel.available)
    func copiesNeverFault(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        (memory.system as? EmulatedKernel)?.registeredThreads = 3
        together(3) { thread in
            for round in 0..<300 {
                if thread == 0 {
                    do {
                        try memory.convert(pages(0, 16), to: round % 2 == 0 ? .shared : .private)
                    } catch {
                        Issue.record("\(error)")
                    }
                } else {
                    let bytes = [UInt8](repeating: UInt8(thread), count: 5_000)
                    let failure = error { () throws(GuestMemoryError) in
                        try memory.write(bytes.span, at: UInt64(round * 13))
                    }
                    if let failure, failure.code != .notShared { Issue.record("\(failure)") }
                }
            }
            (memory.system as? EmulatedKernel)?.unregisterThread()
        }
        try memory.close()
    }

    /// Who holds a lease may use what it covers, while a conversion waits for the lease to end.
    @Test(arguments: TestKernel.available)
    func aLesseeIsNotHeldUpByWhoWaitsForIt(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        (memory.system as? EmulatedKernel)?.registeredThreads = 2
        try memory.convert(pages(0, 4), to: .shared)
        let lease = try memory.lease(pages(1, 2), label: "q0")
        together(2) { thread in
            if thread == 0 {
                do { try memory.convert(pages(0, 4), to: .private) } catch { Issue.record("\(error)") }
            } else {
                while memory.statistics.counters.leaseWaits + memory.statistics.counters.failed == 0 { sched_yield() }
                do {
                    try memory.write([1, 2, 3].span, at: pageBytes + 5)
                    #expect(try memory.read(3, at: pageBytes + 5) == [1, 2, 3])
                } catch {
                    Issue.record("\(error)")
                }
                lease.release()
            }
        }
        #expect(memory.shareability(at: pageBytes) == .private)
        try memory.close()
    }

    /// Allocating and closing at once: the one or the other is refused, and nothing is used after it went.
    @Test(arguments: TestKernel.available)
    func allocatingAgainstClosing(kernel: TestKernel) throws {
        for _ in 0..<50 {
            let memory = try kernel.memory()
            together(2) { thread in
                if thread == 0 {
                    let refused = error { () throws(GuestMemoryError) in
                        for _ in 0..<20 { try memory.preallocate(pages(0, 64)) }
                    }
                    #expect(refused == nil || refused?.code == .closed)
                } else {
                    let refused = error { () throws(GuestMemoryError) in try memory.close() }
                    #expect(refused == nil || refused?.code == .inUse)
                }
            }
            try memory.close()
        }
    }

    /// A conversion waits for a lease that another thread lets go, and is woken by that.
    @Test(arguments: TestKernel.available)
    func aReleasedLeaseWakesTheConversion(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        (memory.system as? EmulatedKernel)?.registeredThreads = 2
        try memory.convert(pages(0, 4), to: .shared)
        let lease = try memory.lease(pages(2), label: "q0")
        together(2) { thread in
            if thread == 0 {
                do {
                    #expect(try memory.convert(pages(0, 4), to: .private) == .converted(pages: 4))
                } catch {
                    Issue.record("\(error)")
                }
            } else {
                while memory.statistics.counters.leaseWaits + memory.statistics.counters.failed == 0 { sched_yield() }
                lease.release()
            }
        }
        #expect(memory.statistics.counters.pauses == 1)
        try memory.close()
    }
}
