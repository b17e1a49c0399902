/// A labelled right to touch a shared range, until released. While it stands, no conversion makes any of
/// the range private: conversions wait for it, and name it when they give up.
///
/// For what pins guest memory for long: a vhost queue, a registered I/O buffer, a device mapping.
public final class SharedLease: @unchecked Sendable {
    /// Bytes that are neighbours in this process.
    public struct Segment: Sendable {
        /// Where the host sees the first of them. Good while the lease stands.
        public var hostAddress: UInt
        /// Bytes.
        public var count: Int
    }

    /// What is leased.
    public let range: GuestRange
    /// Whose it is, as errors name it.
    public let label: String
    /// The range as the host sees it, in order: one segment for each region it lies in.
    public let segments: [Segment]
    private let memory: GuestMemory
    private let claim: UInt64
    /// Under the lock of the memory's claims.
    private var isReleased = false

    init(
        _ range: GuestRange, _ label: String, in memory: GuestMemory, claim: UInt64, segments: [Segment]
    ) {
        self.segments = segments
        self.range = range
        self.label = label
        self.memory = memory
        self.claim = claim
    }

    deinit { release() }

    /// Lets go. From any thread, and as often as one likes.
    public func release() {
        // A forked child's copy of the lock may be one that nobody will release.
        if memory.isForked { return }
        let wake = memory.claims.lock.withLock {
            if isReleased { return false }
            isReleased = true
            return memory.claims.remove(claim)
        }
        if wake { memory.claims.wakeWaiters() }
    }
}
