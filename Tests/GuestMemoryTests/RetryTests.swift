import Testing

@testable import GuestMemory

/// The retry policy, row by row of its table.
@Suite struct RetryTests {
    let kernel = ScriptedKernel()
    let page: UInt64 = 4096
    let again = LinuxErrno.again.result

    var converter: FileConverter {
        FileConverter(
            method: .inPlace(.attributes2), descriptor: 99, hostView: 0, pageShift: 12)
    }

    func place(_ page: Int) -> ConversionPolicy.Busy {
        ConversionPolicy.Busy(address: UInt64(page) << 12, fileOffset: UInt64(page) << 12, leases: [])
    }

    /// Converts pages 16 to 31 to private.
    @discardableResult
    func convert(_ policy: ConversionPolicy) throws(RetryLoop.Failure) -> RetryLoop {
        var loop = RetryLoop(policy, on: kernel)
        try loop.convert(PageRange(start: 16, count: 16), to: .private, by: converter, place: place)
        return loop
    }

    func failure(_ policy: ConversionPolicy) -> RetryLoop.Failure? {
        do throws(RetryLoop.Failure) {
            try convert(policy)
            return nil
        } catch {
            return error
        }
    }

    @Test func successNeverReadsTheClock() throws {
        try convert(.vmm)
        #expect(kernel.conversions.count == 1)
        #expect(kernel.clockReads == 0)
        #expect(kernel.pauses.isEmpty)
    }

    @Test func twoSpuriousRefusalsAreRetriedAtOnce() throws {
        kernel.answers = [(again, 17 * page), (again, 18 * page)]
        let loop = try convert(.vmm)
        #expect(kernel.conversions.count == 3)
        #expect(kernel.pauses.isEmpty)
        #expect(loop.counts.busy == 2)
    }

    @Test func errorOffsetIsZeroOnEveryAttempt() throws {
        kernel.answers = .init(repeating: (again, 17 * page), count: 6)
        try convert(.vmm)
        #expect(kernel.conversions.allSatisfy { $0.errorOffset == 0 })
    }

    @Test func pausesDoubleFrom20MicrosecondsTo5MillisecondsWithJitter() throws {
        kernel.answers = .init(repeating: (again, 17 * page), count: 14)
        try convert(.vmm)
        var expected: UInt64 = 20_000
        #expect(kernel.pauses.count == 12)
        for pause in kernel.pauses {
            #expect(pause >= expected * 3 / 4 && pause <= expected * 5 / 4)
            expected = min(expected * 2, 5_000_000)
        }
        #expect(kernel.pauses.contains { $0 != $0 / 20_000 * 20_000 }, "no jitter")
    }

    @Test func heldPageFailsAtTheDeadlineAndIsNamed() {
        kernel.held = [20 * page]
        for (policy, deadline) in [(ConversionPolicy.vcpu, UInt64(1_000_000_000)), (.vmm, 5_000_000_000)] {
            let started = kernel.time
            guard case .held(page: 20, byHook: false) = failure(policy) else {
                Issue.record("not reported as held")
                continue
            }
            #expect(kernel.time - started == deadline, "waits to the deadline, and never past it")
        }
    }

    @Test func ownerIsAskedAfterImmediateRetriesAndToldEverything() {
        kernel.held = [20 * page]
        nonisolated(unsafe) var asked: [ConversionPolicy.Busy] = []
        var policy = ConversionPolicy.vmm
        policy.onBusy = { busy in
            unsafe asked.append(busy)
            return unsafe asked.count == 3 ? .giveUp : .backOff
        }
        guard case .held(page: 20, byHook: true) = failure(policy) else {
            Issue.record("the owner gave up and was not heard")
            return
        }
        #expect(unsafe asked.map(\.attempt) == [3, 4, 5])
        #expect(unsafe asked.allSatisfy { $0.address == 20 * page && $0.fileOffset == 20 * page })
        #expect(unsafe asked[0].elapsed == 0)
        #expect(unsafe asked[2].elapsed > asked[1].elapsed)
        #expect(kernel.pauses.count == 2)
    }

    @Test func ownerWhoLetsGoIsNotWaitedFor() throws {
        kernel.held = [20 * page]
        var policy = ConversionPolicy.vmm
        policy.onBusy = { [kernel] _ in
            kernel.held = []
            return .retry
        }
        try convert(policy)
        #expect(kernel.conversions.count == 4)
        #expect(kernel.pauses.isEmpty)
    }

    @Test func noMemoryIsTriedThreeTimes() {
        kernel.answers = .init(repeating: (LinuxErrno.noMemory.result, 16 * page), count: 9)
        guard case .noMemory = failure(.vmm) else {
            Issue.record("not reported as lack of memory")
            return
        }
        #expect(kernel.conversions.count == 3)
    }

    @Test func noMemoryHookMayFreeSomeOrGiveUp() throws {
        kernel.answers = [(LinuxErrno.noMemory.result, 0)]
        var policy = ConversionPolicy.vmm
        nonisolated(unsafe) var attempts: [Int] = []
        policy.onNoMemory = {
            unsafe attempts.append($0)
            return true
        }
        try convert(policy)
        #expect(unsafe attempts == [1])
        kernel.answers = [(LinuxErrno.noMemory.result, 0)]
        policy.onNoMemory = { _ in false }
        guard case .noMemory = failure(policy) else {
            Issue.record("gave up, but went on")
            return
        }
    }

    @Test func interruptedCallsAreRepeatedAndNotCounted() throws {
        kernel.answers = .init(repeating: (LinuxErrno.interrupted.result, 0), count: 50)
        let loop = try convert(.vmm)
        #expect(kernel.conversions.count == 51)
        #expect(loop.counts.busy == 0 && loop.counts.noMemory == 0 && loop.counts.pauses == 0)
    }

    @Test(arguments: [LinuxErrno.invalid, .notTTY, .badAddress, .badFileDescriptor, .notSupported, .notPermitted, .io])
    func hopelessAnswersFailAtOnce(errno: LinuxErrno) {
        kernel.answers = [(errno.result, 16 * page)]
        guard case .refused(errno) = failure(.vmm) else {
            Issue.record("\(errno) was not reported as refused")
            return
        }
        #expect(kernel.conversions.count == 1)
    }

    @Test func aSignalDuringAPauseLooksAtTheCancelToken() {
        kernel.held = [20 * page]
        kernel.sleepAnswers = [LinuxErrno.interrupted.result, LinuxErrno.interrupted.result]
        var policy = ConversionPolicy.vmm
        nonisolated(unsafe) var kicked = false
        policy.isCancelled = { [kernel] in
            unsafe kicked = kernel.pauses.count == 2
            return unsafe kicked
        }
        guard case .cancelled = failure(policy) else {
            Issue.record("the kick was not heard")
            return
        }
        #expect(kernel.pauses.count == 2)
    }

    @Test func errorOffsetOutsideTheRequestIsClamped() {
        for (raw, expected) in [(UInt64(0), 16), (17 * page + 5, 17), (1 << 40, 31), (.max, 31)] {
            kernel.answers = .init(repeating: (again, raw), count: 3)
            var policy = ConversionPolicy.vmm
            policy.onBusy = { _ in .giveUp }
            guard case .held(let page, _) = failure(policy) else {
                Issue.record("not held")
                continue
            }
            #expect(page == expected)
        }
    }

    @Test func convertAroundLeavesExactlyTheHeldPages() throws {
        kernel.held = [16 * page, 20 * page, 21 * page, 31 * page]
        var policy = ConversionPolicy.vmm
        policy.deadline = 1_000_000
        var loop = RetryLoop(policy, on: kernel)
        let held = try loop.convertAround(
            PageRange(start: 16, count: 16), to: .private, by: converter, place: place)
        #expect(held.map(\.start).sorted() == [16, 20, 21, 31])
        #expect(kernel.time - 1_000_000 == 1_000_000, "the held pages share one deadline")
    }

    @Test func pausesOfAnyLengthAreTaken() {
        kernel.held = [20 * page]
        var policy = ConversionPolicy(deadline: 1_000)
        policy.jitterPercent = .max
        policy.firstPause = .max
        policy.longestPause = .max
        guard case .held = failure(policy) else {
            Issue.record("not held")
            return
        }
        #expect(kernel.pauses.allSatisfy { $0 <= 1_000 })
    }

    @Test func guardPagesAreNeverBusyAtAnOffset() {
        let guards = FileConverter(
            method: .guardPages, descriptor: 99, hostView: 1 << 40, pageShift: 12)
        let answer = ConversionAnswer(result: again, errorOffset: 0)
        #expect(guards.busyPage(answer, in: PageRange(start: 7, count: 2)) == 7)
    }
}
