import CGmem

/// Who is using which guest-physical bytes right now: conversions under way, and accesses to shared
/// memory (leases and copies). Overlapping conversions queue, a conversion to private waits for accesses,
/// and accesses wait for conversions to private. Disjoint ones do not know of each other.
///
/// A short list, scanned: there are as many entries as threads and leases, and most ranges differ.
///
/// `@safe`: the one pointer is made in `init`, freed in `deinit`, and never leaves.
@safe
package final class Claims: @unchecked Sendable {
    package struct Claim {
        package enum Kind: UInt8 { case toPrivate, toShared, access }
        package var kind: Kind
        /// First byte, and the one after the last.
        package var start: UInt64
        package var end: UInt64
        /// The thread that would wait for itself; 0 where any thread may release it.
        package var thread: UInt64
        package var id: UInt64
        /// Whose it is, for messages; empty for conversions and copies.
        package var label: String
        /// When it began, on the seam's clock; 0 where nobody asked.
        package var since: UInt64

        @inline(__always)
        func overlaps(_ start: UInt64, _ end: UInt64) -> Bool { self.start < end && start < self.end }
    }

    /// Guards the list, and with it whatever the owner says: `GuestMemory` keeps its ledgers under it.
    package let lock = Lock()
    private var claims: [Claim] = []
    private var lastID: UInt64 = 0
    /// Changes whenever a claim ends while somebody waits. In memory of its own: the kernel waits on it.
    private let ended: UnsafeMutablePointer<UInt32>
    private var waiters = 0
    private let system: any SystemCalls

    package init(on system: any SystemCalls) {
        self.system = system
        unsafe ended = .allocate(capacity: 1)
        unsafe ended.initialize(to: 0)
        // More than a VMM has threads: nothing allocates while it converts.
        claims.reserveCapacity(256)
    }

    deinit { unsafe ended.deallocate() }

    // MARK: Under the lock

    package var isEmpty: Bool { claims.isEmpty }
    /// Whether there is only the claim that was just added.
    package var isAlone: Bool { claims.count == 1 }
    package var holders: [Claim] { claims }

    /// Adds a claim and returns its number.
    @inline(__always)
    package func add(
        _ kind: Claim.Kind, _ start: UInt64, _ end: UInt64, thread: UInt64, label: String = "",
        since: UInt64 = 0
    ) -> UInt64 {
        lastID += 1
        claims.append(
            Claim(kind: kind, start: start, end: end, thread: thread, id: lastID, label: label, since: since))
        return lastID
    }

    /// Ends a claim. Returns whether `wakeWaiters` has to be called once the lock is released.
    @inline(__always)
    package func remove(_ id: UInt64) -> Bool {
        // The latest first: short claims come and go above the long-lived ones.
        var index = claims.count - 1
        while index >= 0, claims[index].id != id { index -= 1 }
        if index >= 0 { claims.remove(at: index) }
        if waiters == 0 { return false }
        // SAFETY: allocated in init, freed in deinit; waiters read it in the kernel.
        unsafe cgmem_add32(ended, 1)
        return true
    }

    /// The first claim of one of these kinds that overlaps the bytes.
    @inline(__always)
    package func first(overlapping start: UInt64, _ end: UInt64, where matches: (Claim.Kind) -> Bool) -> Claim? {
        for claim in claims where claim.overlaps(start, end) && matches(claim.kind) { return claim }
        return nil
    }

    /// The labels of the accesses that overlap the bytes.
    package func labels(overlapping start: UInt64, _ end: UInt64) -> [String] {
        claims.filter { $0.kind == .access && $0.overlaps(start, end) }
            .map { $0.label.isEmpty ? "a copy" : $0.label }
    }

    /// Releases the lock, waits until some claim has ended or `deadline` (on the seam's clock), and takes
    /// the lock again.
    package func waitForEnd(until deadline: UInt64) {
        let expected = unsafe cgmem_load32(ended)
        waiters += 1
        lock.unlock()
        _ = unsafe system.wait(ended, expected, deadline)
        lock.lock()
        waiters -= 1
    }

    // MARK: Outside the lock

    package func wakeWaiters() { _ = unsafe system.wake(ended) }
}
