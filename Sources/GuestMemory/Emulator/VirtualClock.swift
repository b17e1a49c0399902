import CGmem

/// Time that stands still until everybody waits, and then jumps to the earliest deadline.
///
/// A thread that sleeps or waits is blocked; when as many threads are blocked as are registered, the
/// clock moves and those whose time has come go on. A thread counts as running again from that moment,
/// not from when it is next scheduled: time cannot run ahead of it.
final class VirtualClock: @unchecked Sendable {
    // SAFETY: both pointers are the sleeper's, valid until it has its answer and the lock.
    @safe
    private struct Sleeper {
        /// Where the sleeper waits for its answer: `pending`, then what the call returns.
        var answer: UnsafeMutablePointer<UInt32>
        /// What `wake` must name, nil for a sleep.
        var word: UnsafeMutablePointer<UInt32>?
        var deadline: UInt64
    }

    private static var pending: UInt32 { UInt32.max }

    private let lock = Lock()
    private var time: UInt64 = 1_000_000_000
    private var sleepers: [Sleeper] = []
    private var registered: Int

    init(registeredThreads: Int) { registered = max(1, registeredThreads) }

    var now: UInt64 { lock.withLock { time } }

    var registeredThreads: Int {
        get { lock.withLock { registered } }
        set {
            lock.withLock {
                registered = max(1, newValue)
                advanceWhileAllBlocked()
            }
        }
    }

    func unregisterThread() {
        lock.withLock {
            registered = max(1, registered - 1)
            advanceWhileAllBlocked()
        }
    }

    /// Moves the clock by hand.
    func advance(nanoseconds: UInt64) {
        lock.withLock {
            time = Self.sum(time, nanoseconds)
            answerDue()
        }
    }

    func sleep(nanoseconds: UInt64) -> Int {
        if nanoseconds == 0 { return 0 }
        lock.lock()
        return unsafe block(word: nil, deadline: Self.sum(time, nanoseconds))
    }

    func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        lock.lock()
        // The order of the futex call: the word first, then the clock.
        if unsafe cgmem_load32(word) != expected {
            lock.unlock()
            return LinuxErrno.again.result
        }
        if deadline <= time {
            lock.unlock()
            return LinuxErrno.timedOut.result
        }
        return unsafe block(word: word, deadline: deadline)
    }

    func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int {
        lock.withLock {
            answer(0) { unsafe $0.word == word }
        }
    }

    /// A signal to every blocked thread.
    func interrupt() -> Int {
        lock.withLock {
            answer(UInt32(LinuxErrno.interrupted.rawValue)) { _ in true }
        }
    }

    /// Called with the lock held, which it gives up.
    private func block(word: UnsafeMutablePointer<UInt32>?, deadline: UInt64) -> Int {
        var slot = Self.pending
        return unsafe withUnsafeMutablePointer(to: &slot) { slot in
            sleepers.append(unsafe Sleeper(answer: slot, word: word, deadline: deadline))
            advanceWhileAllBlocked()
            lock.unlock()
            while unsafe cgmem_load32(slot) == Self.pending {
                _ = unsafe cgmem_futex_wait(slot, Self.pending, UInt64.max)
            }
            // Whoever answered may still be using the slot: it has left when the lock is free.
            lock.lock()
            lock.unlock()
            return unsafe -Int(cgmem_load32(slot))
        }
    }

    private func advanceWhileAllBlocked() {
        while !sleepers.isEmpty && sleepers.count >= registered {
            var earliest = UInt64.max
            for sleeper in sleepers { earliest = min(earliest, sleeper.deadline) }
            if earliest == UInt64.max {
                // Nobody is left who could wake anybody: an answer is better than a test that hangs.
                _ = answer(UInt32(LinuxErrno.deadlock.rawValue)) { _ in true }
                return
            }
            time = max(time, earliest)
            answerDue()
        }
    }

    private func answerDue() {
        let time = time
        _ = answer(0) { unsafe $0.word == nil && $0.deadline <= time }
        _ = answer(UInt32(LinuxErrno.timedOut.rawValue)) { $0.deadline <= time }
    }

    /// Lets those go on that `matches` picks, with `errno` as their answer; returns how many.
    private func answer(_ errno: UInt32, where matches: (Sleeper) -> Bool) -> Int {
        var left: [Sleeper] = []
        var count = 0
        for sleeper in sleepers {
            if matches(sleeper) {
                unsafe cgmem_add32(sleeper.answer, errno &- Self.pending)
                _ = unsafe cgmem_futex_wake(sleeper.answer)
                count += 1
            } else {
                left.append(sleeper)
            }
        }
        sleepers = left
        return count
    }

    private static func sum(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let (sum, overflow) = a.addingReportingOverflow(b)
        return overflow ? UInt64.max : sum
    }
}
