/// What a guest's memory is and what was done to it.
public struct MemoryStatistics: Sendable {
    /// Sums since creation.
    public struct Counters: Sendable {
        /// Requests for shared that changed something.
        public var conversionsToShared: UInt64 = 0
        /// Requests for private that changed something.
        public var conversionsToPrivate: UInt64 = 0
        /// Pages that became shared.
        public var pagesToShared: UInt64 = 0
        /// Pages that became private.
        public var pagesToPrivate: UInt64 = 0
        /// Requests for a state that every page was in already.
        public var unchanged: UInt64 = 0
        /// Requests that threw after validation.
        public var failed: UInt64 = 0
        /// Pages that failed requests converted back.
        public var pagesUndone: UInt64 = 0
        /// EAGAIN answers of the kernel.
        public var busyAnswers: UInt64 = 0
        /// ENOMEM answers of the kernel.
        public var noMemoryAnswers: UInt64 = 0
        /// Waits: because of those answers, or of a lease, a copy or another conversion.
        public var pauses: UInt64 = 0
        /// Times a conversion had to wait for a lease or a copy.
        public var leaseWaits: UInt64 = 0
    }

    /// Sums since creation.
    public var counters = Counters()
    /// Bytes of the regions that are shared now.
    public var sharedBytes: UInt64 = 0
    /// Bytes of the regions that are private now.
    public var privateBytes: UInt64 = 0
    /// 2 MiB frames of the files that hold both states now: what cannot be mapped whole.
    public var mixedFrames2M = 0
    /// The most there ever were at once in each file, added up.
    public var mixedFrames2MPeak = 0
    /// 1 GiB frames of the files that hold both states now.
    public var mixedFrames1G = 0
    /// The most there ever were at once in each file, added up.
    public var mixedFrames1GPeak = 0
    /// Leases and copies under way.
    public var leases = 0
}

extension GuestMemory {
    /// A snapshot; all zero in a forked child. Constant time per region, where a region has its file to itself.
    public var statistics: MemoryStatistics {
        if isForked { return MemoryStatistics() }
        return claims.lock.withLock {
            var result = MemoryStatistics()
            result.counters = shared.value.counters
            result.leases = claims.accessCount
            for region in regions {
                let shared = UInt64(region.ledger.countPages(in: .shared, within: region.pages) * pageSize)
                result.sharedBytes += shared
                result.privateBytes += region.range.size - shared
            }
            for file in files {
                let frames = file.ledger.value.statistics
                result.mixedFrames2M += frames.mixed2M
                result.mixedFrames2MPeak += frames.mixed2MPeak
                result.mixedFrames1G += frames.mixed1G
                result.mixedFrames1GPeak += frames.mixed1GPeak
            }
            return result
        }
    }
}
