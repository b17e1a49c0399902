/// A labelled right to touch a shared range, until released. While it stands, no conversion makes any of
/// the range private: conversions wait for it, and name it when they give up.
///
/// For what pins guest memory for long: a vhost queue, a registered I/O buffer, a device mapping.
public final class SharedLease: @unchecked Sendable {
    public let range: GuestRange
    public let label: String
    private let memory: GuestMemory
    private let claim: UInt64
    /// Under the lock of the memory's claims.
    private var isReleased = false

    init(_ range: GuestRange, _ label: String, in memory: GuestMemory, claim: UInt64) {
        self.range = range
        self.label = label
        self.memory = memory
        self.claim = claim
    }

    deinit { release() }

    /// Lets go. From any thread, and as often as one likes.
    public func release() {
        let wake = memory.claims.lock.withLock {
            if isReleased { return false }
            isReleased = true
            return memory.claims.remove(claim)
        }
        if wake { memory.claims.wakeWaiters() }
    }
}
