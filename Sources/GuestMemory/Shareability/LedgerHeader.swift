/// What a `ShareabilityMap` knows besides its tables.
///
/// Lives at the start of the map's memory, so that the map itself is two words: Swift copies a non-copyable
/// value that a closure has captured before it calls a method on it, which took 100 ns when all of this was
/// stored in the map.
struct LedgerHeader: BitwiseCopyable {
    let shape: FrameShape
    let frames1G: FlatTable<Frame1G>
    let frames2M: FlatTable<Frame2M>
    let words: FlatTable<UInt64>
    let pageSize: Int
    let isInitiallyShared: Bool
    /// Pages that differ from the initial state.
    var differing = 0
    var statistics = FrameStatistics()
}
