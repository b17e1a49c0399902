/// The retry policy at work on one request. A value per request: attempts and the deadline are counted
/// over all of its runs, and the clock is first read when the kernel first refuses.
package struct RetryLoop {
    package let policy: ConversionPolicy
    private let system: any SystemCalls
    package private(set) var counts = Counts()
    private var started: UInt64?
    private var pause: UInt64 = 0
    private var seed: UInt64 = 0

    /// What happened on the way, for statistics.
    package struct Counts {
        /// Answers of EAGAIN.
        package var busy = 0
        /// Answers of ENOMEM.
        package var noMemory = 0
        /// Pauses made.
        package var pauses = 0
    }

    /// Why a run was not converted.
    package enum Failure: Error {
        /// Somebody holds this page of the file. `byHook`: the owner said to give up.
        case held(page: Int, byHook: Bool)
        case cancelled(page: Int)
        case noMemory
        /// Our bug, or not possible here.
        case refused(LinuxErrno)
    }

    package init(_ policy: ConversionPolicy, on system: any SystemCalls) {
        self.policy = policy
        self.system = system
    }

    /// Nanoseconds since the first refusal.
    package var elapsed: UInt64 { started.map { system.now() - $0 } ?? 0 }
    /// Whether the time for waiting is over.
    package var isOverdue: Bool { elapsed >= policy.deadline }

    /// Converts one run: in one call where nobody is in the way.
    package mutating func convert(
        _ run: PageRange, to state: Shareability, by converter: FileConverter, place: (Int) -> ConversionPolicy.Busy
    ) throws(Failure) {
        let answer = converter.attempt(run, to: state, on: system)
        try persist(run, to: state, by: converter, after: answer, place: place)
    }

    /// Converts all of a run that nobody holds, and returns the pages held. Each held page has its own
    /// immediate retries; the pauses share the request's one deadline.
    package mutating func convertAround(
        _ run: PageRange, to state: Shareability, by converter: FileConverter, place: (Int) -> ConversionPolicy.Busy
    ) throws(AroundFailure) -> [PageRange] {
        var held: [PageRange] = []
        // Spans still to be tried, the next one last.
        var spans = [run]
        while let span = spans.popLast() {
            do throws(Failure) {
                try convert(span, to: state, by: converter, place: place)
            } catch .held(let page, _) {
                held.append(PageRange(start: page, count: 1))
                if page + 1 < span.end { spans.append(PageRange(start: page + 1, count: span.end - page - 1)) }
                if page > span.start { spans.append(PageRange(start: span.start, count: page - span.start)) }
            } catch {
                throw AroundFailure(reason: error, span: span, unconverted: held + [span] + spans)
            }
        }
        return held
    }

    /// A failure in the middle of `convertAround`, and what it left unconverted.
    package struct AroundFailure: Error {
        package var reason: Failure
        /// What the failed call was about.
        package var span: PageRange
        package var unconverted: [PageRange]
    }

    /// Converts one run whose first attempt was answered already.
    package mutating func persist(
        _ run: PageRange, to state: Shareability, by converter: FileConverter,
        after first: ConversionAnswer, place: (Int) -> ConversionPolicy.Busy
    ) throws(Failure) {
        var answer = first
        var refusals = 0
        var withoutMemory = 0
        while let errno = LinuxErrno(result: answer.result) {
            switch errno {
            case .again:
                counts.busy += 1
                refusals += 1
                let page = converter.busyPage(answer, in: run)
                try afterRefusal(refusals, page: page, place: place)
            case .noMemory:
                counts.noMemory += 1
                withoutMemory += 1
                if withoutMemory >= policy.noMemoryTries { throw .noMemory }
                if let ask = policy.onNoMemory {
                    if !ask(withoutMemory) { throw .noMemory }
                } else {
                    // Without anybody to free some, time is what may.
                    if started == nil { start() }
                    counts.pauses += 1
                    _ = system.sleep(nanoseconds: nextPause())
                }
            case .interrupted:
                break
            default:
                throw .refused(errno)
            }
            answer = converter.attempt(run, to: state, on: system)
        }
    }

    /// Decides about page `page` after the `refusals`th refusal of its run; returns when it is time to
    /// try again.
    package mutating func afterRefusal(
        _ refusals: Int, page: Int, place: (Int) -> ConversionPolicy.Busy
    ) throws(Failure) {
        if started == nil { start() }
        if refusals <= policy.immediateRetries { return }
        // Another run's refusals have used the time up: this one had its immediate retries.
        if isOverdue { throw .held(page: page, byHook: false) }
        try checkCancelled(page)
        if let ask = policy.onBusy {
            var busy = place(page)
            busy.attempt = refusals
            busy.elapsed = elapsed
            switch ask(busy) {
            case .backOff: break
            case .retry: return
            case .giveUp: throw .held(page: page, byHook: true)
            }
        }
        counts.pauses += 1
        // Interrupted by a signal, perhaps a kick: the cancel token tells, and a shorter pause does no harm.
        _ = system.sleep(nanoseconds: nextPause())
        try checkCancelled(page)
    }

    /// Waits, under the lock of `claims`, for one of them to end: the same policy as for a busy page, but
    /// woken early. The lock is released for the hook and the wait.
    package mutating func await(
        _ claims: Claims, _ refusals: Int, place: () -> ConversionPolicy.Busy
    ) throws(Failure) {
        if started == nil { start() }
        if isOverdue { throw .held(page: 0, byHook: false) }
        try checkCancelled(0)
        if let ask = policy.onBusy {
            var busy = place()
            busy.attempt = refusals
            busy.elapsed = elapsed
            claims.lock.unlock()
            let decision = ask(busy)
            claims.lock.lock()
            switch decision {
            case .backOff: break
            case .retry: return
            case .giveUp: throw .held(page: 0, byHook: true)
            }
        }
        counts.pauses += 1
        // Whoever wants to be asked again, or can cancel, is looked at between pauses; else one wait will do.
        let polls = policy.onBusy != nil || policy.isCancelled != nil
        let length = polls ? nextPause() : policy.deadline - min(policy.deadline, elapsed)
        let (instant, overflow) = system.now().addingReportingOverflow(length)
        claims.waitForEnd(until: overflow ? .max : instant)
        try checkCancelled(0)
    }

    package func checkCancelled(_ page: Int) throws(Failure) {
        if let isCancelled = policy.isCancelled, isCancelled() { throw .cancelled(page: page) }
    }

    private mutating func start() {
        started = system.now()
        pause = policy.firstPause
        // SAFETY: the word lives for the call. Left 0 where the kernel has no randomness: then no jitter.
        _ = unsafe withUnsafeMutableBytes(of: &seed) { unsafe system.random($0.baseAddress!, 8) }
    }

    /// The pause that is due, jittered, and never past the deadline.
    private mutating func nextPause() -> UInt64 {
        let length = jittered(pause)
        pause = min(pause.saturatingDouble, policy.longestPause)
        return min(length, policy.deadline - min(policy.deadline, elapsed))
    }

    private mutating func jittered(_ length: UInt64) -> UInt64 {
        // xorshift64: waiters that collided once should not collide again, no more is needed.
        seed ^= seed << 13
        seed ^= seed >> 7
        seed ^= seed << 17
        let span = length / 100 * min(policy.jitterPercent, 100) + length % 100 * min(policy.jitterPercent, 100) / 100
        let (longest, overflow) = length.addingReportingOverflow(span)
        return span == 0 || overflow ? length : length - span + seed % (longest - (length - span) + 1)
    }
}

extension UInt64 {
    fileprivate var saturatingDouble: UInt64 { multipliedReportingOverflow(by: 2).overflow ? .max : self * 2 }
}
