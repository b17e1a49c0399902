import CGmem

/// Who is using which guest-physical bytes right now: conversions under way, and accesses to shared
/// memory (leases and copies). Overlapping conversions queue, a conversion to private waits for accesses,
/// and accesses wait for conversions to private. Disjoint ones do not know of each other.
///
/// A short list, scanned: there are as many entries as threads and leases, and most ranges differ.
///
/// `@safe`: the pointers are made in `init`, freed in `deinit`, and never leave.
@safe
package final class Claims: @unchecked Sendable {
    package struct Claim: BitwiseCopyable {
        package enum Kind: UInt8, BitwiseCopyable {
            case toPrivate, toShared
            /// Somebody touches shared memory.
            case access
            /// Memory is being allocated: in nobody's way, but the file must stay.
            case allocation

            package var isConversion: Bool { self == .toPrivate || self == .toShared }
        }
        package var kind: Kind
        /// First byte, and the one after the last.
        package var start: UInt64
        package var end: UInt64
        /// The thread that would wait for itself; 0 where any thread may release it.
        package var thread: UInt64
        package var id: UInt64
        /// When it began, on the seam's clock; 0 where nobody asked.
        package var since: UInt64

        @inline(__always)
        func overlaps(_ start: UInt64, _ end: UInt64) -> Bool { self.start < end && start < self.end }
    }

    /// Guards the list, and with it whatever the owner says: `GuestMemory` keeps its ledgers under it.
    package let lock = Lock()
    private let list = Cell(List())
    /// Labels by claim, of those that have one.
    private var labels: [(id: UInt64, label: String)] = []
    /// Changes whenever a claim ends while somebody waits. In memory of its own: the kernel waits on it.
    private let ended = Cell(UInt32(0))
    private let system: any SystemCalls

    /// `@safe`: the array is made in `init`, freed in `deinit`, and count says how much of it is initialized.
    @safe
    private struct List: ~Copyable {
        var claims: UnsafeMutablePointer<Claim>
        // More than a VMM has threads: nothing allocates while it converts.
        var capacity = 256
        var count = 0
        var lastID: UInt64 = 0
        var waiters = 0

        init() { unsafe claims = .allocate(capacity: capacity) }
        deinit { unsafe claims.deallocate() }

        mutating func grow() {
            let larger = UnsafeMutablePointer<Claim>.allocate(capacity: capacity * 2)
            unsafe larger.update(from: claims, count: count)
            unsafe claims.deallocate()
            unsafe claims = unsafe larger
            capacity *= 2
        }
    }

    package init(on system: any SystemCalls) { self.system = system }

    // MARK: Under the lock

    package var isEmpty: Bool { list.value.count == 0 }

    /// Adds a claim and returns its number.
    @inline(__always)
    package func add(_ kind: Claim.Kind, _ start: UInt64, _ end: UInt64, thread: UInt64) -> UInt64 {
        add(Claim(kind: kind, start: start, end: end, thread: thread, id: 0, since: 0))
    }

    /// Adds an access under a name.
    package func addAccess(
        _ start: UInt64, _ end: UInt64, thread: UInt64, label: String, since: UInt64
    ) -> UInt64 {
        let id = add(Claim(kind: .access, start: start, end: end, thread: thread, id: 0, since: since))
        if !label.isEmpty { labels.append((id, label)) }
        return id
    }

    @inline(__always)
    private func add(_ claim: Claim) -> UInt64 {
        if list.value.count == list.value.capacity { list.value.grow() }
        list.value.lastID += 1
        // SAFETY: count is less than the capacity that was allocated.
        unsafe (list.value.claims + list.value.count).initialize(to: claim)
        unsafe list.value.claims[list.value.count].id = list.value.lastID
        list.value.count += 1
        return list.value.lastID
    }

    /// Ends a claim. Returns whether `wakeWaiters` has to be called once the lock is released.
    @inline(__always)
    package func remove(_ id: UInt64) -> Bool {
        // The latest first: short claims come and go above the long-lived ones. Order means nothing.
        var index = list.value.count - 1
        while index >= 0, unsafe list.value.claims[index].id != id { index -= 1 }
        if index >= 0 {
            // SAFETY: both are among the count that are initialized.
            unsafe list.value.claims[index] = list.value.claims[list.value.count - 1]
            list.value.count -= 1
        }
        if !labels.isEmpty { labels.removeAll { $0.id == id } }
        if list.value.waiters == 0 { return false }
        // SAFETY: the cell lives as long as we do; waiters read it in the kernel.
        unsafe cgmem_add32(ended.address, 1)
        return true
    }

    /// The first claim of one of these kinds that overlaps the bytes.
    @inline(__always)
    package func first(overlapping start: UInt64, _ end: UInt64, where matches: (Claim.Kind) -> Bool) -> Claim? {
        for index in 0..<list.value.count {
            // SAFETY: one of the count that are initialized.
            let claim = unsafe list.value.claims[index]
            if claim.overlaps(start, end) && matches(claim.kind) { return claim }
        }
        return nil
    }

    /// Whether bytes lie within an access that stands: a lease, or one of this thread's own. As long as it
    /// does, nothing makes them private, whoever waits for it to end.
    package func isCovered(_ start: UInt64, _ end: UInt64, by thread: UInt64) -> Bool {
        for index in 0..<list.value.count {
            // SAFETY: one of the count that are initialized.
            let claim = unsafe list.value.claims[index]
            if claim.kind == .access, claim.thread == 0 || claim.thread == thread, claim.start <= start,
                end <= claim.end
            {
                return true
            }
        }
        return false
    }

    /// The accesses that overlap the bytes, as whole pages.
    package func accessed(_ start: UInt64, _ end: UInt64, pageMask: UInt64) -> [GuestRange] {
        var ranges: [GuestRange] = []
        for index in 0..<list.value.count {
            // SAFETY: one of the count that are initialized.
            let claim = unsafe list.value.claims[index]
            guard claim.kind == .access, claim.overlaps(start, end) else { continue }
            let first = max(start, claim.start & ~pageMask)
            let last = min(end, (claim.end &+ pageMask) & ~pageMask)
            ranges.append(GuestRange(first..<last))
        }
        return ranges.sorted { $0.address < $1.address }
    }

    /// How many accesses are under way.
    package var accessCount: Int {
        // SAFETY: as many as are initialized.
        (0..<list.value.count).count { index in unsafe list.value.claims[index].kind == .access }
    }

    /// The labels of the accesses that overlap the bytes.
    package func labels(overlapping start: UInt64, _ end: UInt64) -> [String] {
        var result: [String] = []
        for index in 0..<list.value.count {
            // SAFETY: one of the count that are initialized.
            let claim = unsafe list.value.claims[index]
            if claim.kind == .access, claim.overlaps(start, end) { result.append(label(of: claim)) }
        }
        return result
    }

    package func label(of claim: Claim) -> String {
        labels.first { $0.id == claim.id }?.label ?? (claim.kind == .access ? "a copy" : "a conversion")
    }

    /// Releases the lock, waits until some claim has ended or `deadline` (on the seam's clock), and takes
    /// the lock again.
    package func waitForEnd(until deadline: UInt64) {
        // SAFETY: the cell lives as long as we do.
        let expected = unsafe cgmem_load32(ended.address)
        list.value.waiters += 1
        lock.unlock()
        _ = unsafe system.wait(ended.address, expected, deadline)
        lock.lock()
        list.value.waiters -= 1
    }

    // MARK: Outside the lock

    package func wakeWaiters() { _ = unsafe system.wake(ended.address) }
}
