import CTouch
import Foundation
import Testing

@testable import GuestMemory

/// The lease that a child tries to release: a C function takes one pointer only.
nonisolated(unsafe) private var childsLease: SharedLease?

/// A forked child has no part in its parent's guest memory, is told so, and harms nothing.
@Suite(.serialized) struct ForkTests {
    /// In a process of its own: where other tests run, a thread may hold a lock of the Swift runtime when it
    /// is forked, and the child would wait for that.
    @Test(arguments: TestKernel.available)
    func everyCallSaysClosed(kernel: TestKernel) async {
        await #expect(processExitsWith: .success) { [kernel] in
            let memory = try kernel.memory()
            try memory.convert(pages(0), to: .shared)
            let lease = try memory.lease(pages(0), label: "parent")
            // What the child will use of the runtime is made before: on a memory that is closed as well.
            let closed = try kernel.memory()
            try closed.close()
            _ = unsafe useAsChild(Unmanaged.passUnretained(closed).toOpaque())
            unsafe childsLease = try memory.lease(pages(0), label: "child")
            // Threads that hold the memory's lock most of the time, also when it is forked.
            let isOver = Locked(false)
            let contenders = (0..<2).map { _ in Thread { while !isOver.withLock({ $0 }) { _ = memory.statistics } } }
            for contender in contenders { contender.start() }
            while memory.statistics.leases == 0 { sched_yield() }
            for _ in 0..<20 {
                #expect(unsafe ctouch_in_child(useAsChild, Unmanaged.passUnretained(memory).toOpaque()) == 0)
            }
            isOver.withLock { $0 = true }
            while !contenders.allSatisfy(\.isFinished) { sched_yield() }
            #expect(try memory.read(1, at: 0) == [0])
            #expect(memory.statistics.leases == 2, "no child released a lease of its parent's")
            unsafe childsLease = nil
            lease.release()
            try memory.close()
        }
    }

    /// Host views are not inherited, private or shared.
    @Test(arguments: TestKernel.available)
    func viewsAreNotInherited(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(0), to: .shared)
        let host = try memory.hostAddress(of: pages(0))
        let touched = unsafe ctouch_in_child(
            { context in
                let result = unsafe ctouch_read(context!)
                return result.signal
            }, UnsafeMutableRawPointer(bitPattern: host))
        #expect(touched == SIGSEGV)
        try memory.close()
    }
}

/// Exit codes of a child: 0, or the number of the expectation that failed.
private func useAsChild(_ context: UnsafeMutableRawPointer?) -> Int32 {
    let memory = unsafe Unmanaged<GuestMemory>.fromOpaque(context!).takeUnretainedValue()
    func isClosed<Result>(_ call: () throws(GuestMemoryError) -> Result) -> Bool { error(call)?.code == .closed }
    if !isClosed({ () throws(GuestMemoryError) in try memory.convert(pages(0), to: .private) }) { return 1 }
    if !isClosed({ () throws(GuestMemoryError) in try memory.read(1, at: 0) }) { return 2 }
    if !isClosed({ () throws(GuestMemoryError) in try memory.lease(pages(0), label: "child") }) { return 3 }
    if !isClosed({ () throws(GuestMemoryError) in try memory.preallocate(pages(0)) }) { return 4 }
    if !isClosed({ () throws(GuestMemoryError) in try memory.populate(PopulationPlan([1], at: 0)) }) { return 5 }
    unsafe childsLease?.release()
    let infos = memory.regionInfos
    let statistics = memory.statistics
    if memory.shareability(at: 0) != nil || !infos.isEmpty { return 7 }
    if statistics.privateBytes != 0 || memory.mappingSize(at: 0) != nil { return 8 }
    if !isClosed({ () throws(GuestMemoryError) in try memory.close() }) { return 6 }
    return 0
}
