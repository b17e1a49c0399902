import CGmem
import Testing

@testable import GuestMemory

/// -errno, as the seam returns it.
private func failed(_ errno: LinuxErrno) -> Int { errno.result }

@Suite struct EmulatorClockTests {
    @Test func timeJumpsWhenEverybodySleeps() throws {
        let kernel = try EmulatedKernel()
        let start = kernel.now()
        #expect(kernel.now() == start)
        #expect(kernel.sleep(nanoseconds: 3_600_000_000_000) == 0)
        #expect(kernel.now() == start + 3_600_000_000_000)
        #expect(kernel.sleep(nanoseconds: 0) == 0)
        kernel.advanceClock(nanoseconds: 5)
        #expect(kernel.now() == start + 3_600_000_000_005)
        #expect(kernel.sleep(nanoseconds: UInt64.max) == failed(.deadlock))
    }

    @Test func waitsAnswerAsFutexesDo() throws {
        let kernel = try EmulatedKernel()
        let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
        defer { unsafe word.deallocate() }
        unsafe word.initialize(to: 5)
        #expect(unsafe kernel.wait(word, 4, UInt64.max) == failed(.again))
        #expect(unsafe kernel.wait(word, 4, 0) == failed(.again))
        #expect(unsafe kernel.wait(word, 5, 0) == failed(.timedOut))
        let deadline = kernel.now() + 1000
        #expect(unsafe kernel.wait(word, 5, deadline) == failed(.timedOut))
        #expect(kernel.now() == deadline)
        #expect(unsafe kernel.wake(word) == 0)
        // For ever, and nobody there to wake it: an answer instead of a hang.
        #expect(unsafe kernel.wait(word, 5, UInt64.max) == failed(.deadlock))
        kernel.script(ScriptedFault(.wait, .interrupted))
        #expect(unsafe kernel.wait(word, 5, UInt64.max) == failed(.interrupted))
    }

    /// A thread that runs what it is given and keeps the answer.
    @safe
    private final class Worker: @unchecked Sendable {
        private let body: @Sendable () -> Int
        private let thread = UnsafeMutablePointer<cgmem_thread>.allocate(capacity: 1)
        private var answer = 0

        init(_ body: @escaping @Sendable () -> Int) {
            self.body = body
            let me = unsafe Unmanaged.passUnretained(self).toOpaque()
            _ = unsafe cgmem_thread_start(
                thread,
                { context in
                    let worker = unsafe Unmanaged<Worker>.fromOpaque(context!).takeUnretainedValue()
                    worker.answer = worker.body()
                }, me)
        }

        deinit { unsafe thread.deallocate() }

        func join() -> Int {
            unsafe cgmem_thread_join(thread)
            return answer
        }
    }

    @Test func sleepersGoOnInTheOrderOfTheirDeadlines() throws {
        let kernel = try EmulatedKernel()
        kernel.registeredThreads = 3
        let start = kernel.now()
        let workers = [300, 100, 200].map { (delay: UInt64) in
            Worker {
                _ = kernel.sleep(nanoseconds: delay)
                let woken = Int(kernel.now() - start)
                // Whoever is done must not be waited for.
                kernel.registeredThreads -= 1
                return woken
            }
        }
        #expect(workers.map { $0.join() } == [300, 100, 200])
    }

    @Test func wakersWakeAndSignalsInterrupt() throws {
        let kernel = try EmulatedKernel()
        kernel.registeredThreads = 2
        let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 2)
        defer { unsafe word.deallocate() }
        unsafe word.initialize(repeating: 0, count: 2)
        let address = Int(bitPattern: word)
        @Sendable func waiter(_ index: Int) -> Int {
            unsafe kernel.wait(UnsafeMutablePointer(bitPattern: address + 4 * index)!, 0, UInt64.max)
        }
        let first = Worker { waiter(0) }
        // The sleep ends only once the worker waits, so it is there to be woken.
        #expect(kernel.sleep(nanoseconds: 50) == 0)
        #expect(unsafe kernel.wake(word + 1) == 0)
        #expect(unsafe kernel.wake(word) == 1)
        #expect(first.join() == 0)
        let second = Worker { waiter(1) }
        #expect(kernel.sleep(nanoseconds: 50) == 0)
        #expect(kernel.interruptWaiters() == 1)
        #expect(second.join() == failed(.interrupted))
        let third = Worker { waiter(0) }
        #expect(kernel.sleep(nanoseconds: 50) == 0)
        // Both wait for ever: both are told.
        #expect(unsafe kernel.wait(word, 0, UInt64.max) == failed(.deadlock))
        #expect(third.join() == failed(.deadlock))
    }

    @Test func randomnessIsRepeatable() throws {
        func bytes(_ seed: UInt64) throws -> [UInt8] {
            var configuration = EmulatedKernel.Configuration.linuxNext
            configuration.seed = seed
            let kernel = try EmulatedKernel(configuration)
            var bytes = Array(repeating: UInt8(0), count: 19)
            let result = unsafe bytes.withUnsafeMutableBytes { unsafe kernel.random($0.baseAddress!, 19) }
            #expect(result == 19)
            return bytes
        }
        #expect(try bytes(1) == bytes(1))
        #expect(try bytes(1) != bytes(2))
    }
}
