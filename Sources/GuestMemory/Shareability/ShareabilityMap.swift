/// Who may touch which page of one file: the ledger a virtual machine monitor works from, since no kernel
/// call tells.
///
/// Shaped like a page table, in three flat arrays: per 1 GiB frame and per 2 MiB frame the number of pages
/// that differ from the initial state, and one bit per page. What is stored is the *difference* from the
/// initial state, so memory that the kernel hands out zero-filled is a finished map, and what is never
/// touched costs nothing.
///
/// What must stay true:
/// - A uniform frame's entry overrides everything below it, which may be out of date. It is pushed down when
///   the frame becomes mixed, unless it is known to be exact: see `FrameCount`.
/// - A frame whose pages agree is uniform: counts, not flags, say so, and so no frame can forget to collapse.
/// - Bits and entries past the end of the file mean nothing, and nobody looks at them.
///
/// A pure value: no system calls but for its memory, no allocation after `init`, not thread-safe.
///
/// `@unchecked Sendable`: it alone reaches its memory, and whoever changes it has it for himself.
///
/// `@safe`: the pointers below lead into `memory`, which lives as long as the map.
@safe
package struct ShareabilityMap: ~Copyable, @unchecked Sendable {
    /// The header, then the tables from the highest level down.
    private let memory: ZeroedMemory

    /// A map of `pageCount` pages of `pageSize` bytes, all in one state.
    ///
    /// nil when the process may not have that much address space (about 1/32,000 of the file).
    ///
    /// - Parameter pageCount: 1 or more. The file's size fits in an `Int`.
    /// - Parameter pageSize: a power of two from 4 KiB to 64 KiB.
    package init?(pageCount: Int, pageSize: Int, initially: Shareability) {
        precondition(pageSize >= 4 << 10 && pageSize <= 64 << 10 && pageSize & (pageSize - 1) == 0)
        precondition(pageCount > 0 && pageCount <= Int.max / pageSize)
        let shape = FrameShape(pageCount: pageCount, pageSize: pageSize)
        // Whole frames, so that a frame is pushed down without asking where the file ends.
        let count1G = shape.lastFrame1G + 1
        let count2M = count1G * FrameShape.fanout
        let countWords = (((shape.lastFrame2M + 1) << shape.shift2M) + 63) >> 6
        // Each table on a cache line of its own, so that a 2 MiB frame's bits are exactly one.
        let offset1G = (MemoryLayout<LedgerHeader>.size + 63) & ~63
        let offset2M = (offset1G + count1G * MemoryLayout<Frame1G>.stride + 63) & ~63
        let offsetWords = offset2M + count2M * MemoryLayout<Frame2M>.stride
        guard let memory = ZeroedMemory(count: offsetWords + countWords * MemoryLayout<UInt64>.stride)
        else { return nil }

        let header = LedgerHeader(
            shape: shape,
            frames1G: FlatTable(in: memory, at: offset1G, count: count1G),
            frames2M: FlatTable(in: memory, at: offset2M, count: count2M),
            words: FlatTable(in: memory, at: offsetWords, count: countWords),
            pageSize: pageSize, isInitiallyShared: initially == .shared)
        // SAFETY: the first bytes of the memory, before the first table, are the header's.
        unsafe memory.base.initializeMemory(as: LedgerHeader.self, to: header)
        self.memory = memory
    }

    /// In place: only `mutating` methods write, so the compiler keeps accesses apart as if it were stored here.
    @inline(__always)
    private var header: LedgerHeader {
        // SAFETY: `init` made it, nothing else lies there, and it is there while `self` is.
        unsafeAddress { unsafe UnsafePointer(memory.base.assumingMemoryBound(to: LedgerHeader.self)) }
        unsafeMutableAddress { unsafe memory.base.assumingMemoryBound(to: LedgerHeader.self) }
    }

    @inline(__always)
    var shape: FrameShape { header.shape }
    @inline(__always)
    var frames1G: FlatTable<Frame1G> { header.frames1G }
    @inline(__always)
    var frames2M: FlatTable<Frame2M> { header.frames2M }
    /// Per page: whether it differs from the initial state. Page `p` is bit `p % 64` of word `p / 64`.
    @inline(__always)
    var words: FlatTable<UInt64> { header.words }
    /// Pages that differ from the initial state.
    @inline(__always)
    var differing: Int {
        get { header.differing }
        _modify { yield &header.differing }
    }
    /// How many frames are mixed, now and at most. Kept as it goes.
    package internal(set) var statistics: FrameStatistics {
        @inline(__always)
        get { header.statistics }
        @inline(__always)
        _modify { yield &header.statistics }
    }

    /// Pages in the file.
    @inline(__always)
    package var pageCount: Int { header.shape.pageCount }
    /// Bytes in a page.
    package var pageSize: Int { header.pageSize }
    /// The state every page started in.
    @inline(__always)
    package var initially: Shareability { header.isInitiallyShared ? .shared : .private }
    /// Bytes of address space of the arrays. What is never touched takes no memory.
    package var allocatedBytes: Int { memory.count }
    /// 2 MiB frames in the file, the last one perhaps partial.
    package var frameCount2M: Int { shape.lastFrame2M + 1 }
    /// 1 GiB frames in the file, the last one perhaps partial.
    package var frameCount1G: Int { shape.lastFrame1G + 1 }
    /// Shared pages in the file.
    package var sharedPages: Int { initially == .shared ? pageCount - differing : differing }
    /// Private pages in the file.
    package var privatePages: Int { pageCount - sharedPages }

    // MARK: - One page, one frame

    /// The state of a page.
    @inline(__always)
    package func state(ofPage page: Int) -> Shareability {
        check(page: page)
        let frame2M = page &>> shape.shift2M
        let count1G = frames1G[frame2M &>> FrameShape.fanoutShift].count
        if !count1G.isMixed { return state(differs: count1G.differs) }
        let count2M = frames2M[frame2M].count
        // A branch, not both and a choice: where it can be predicted, nothing waits for the bits of a uniform
        // frame, which are in nobody's cache.
        if !count2M.isMixed { return state(differs: count2M.differs) }
        return state(differs: (words[page &>> 6] &>> UInt64(truncatingIfNeeded: page)) & 1 != 0)
    }

    /// The state of all pages of a 2 MiB frame, nil when it is mixed and cannot be mapped whole.
    ///
    /// A last frame that the file ends in is uniform when the pages it has agree.
    @inline(__always)
    package func uniformState(ofFrame2M frame: Int) -> Shareability? {
        precondition(UInt(bitPattern: frame) <= UInt(bitPattern: shape.lastFrame2M), "no such 2 MiB frame")
        let count1G = frames1G[frame &>> FrameShape.fanoutShift].count
        var isMixed = count1G.isMixed
        var differs = count1G.differs
        if isMixed {
            let count2M = frames2M[frame].count
            isMixed = count2M.isMixed
            differs = count2M.differs
        }
        // Made in any case, so that no branch has to predict which frames are mixed.
        let uniform = state(differs: differs)
        return isMixed ? nil : uniform
    }

    /// The state of all pages of a 1 GiB frame, nil when it is mixed and cannot be mapped whole.
    ///
    /// A last frame that the file ends in is uniform when the pages it has agree.
    @inline(__always)
    package func uniformState(ofFrame1G frame: Int) -> Shareability? {
        precondition(UInt(bitPattern: frame) <= UInt(bitPattern: shape.lastFrame1G), "no such 1 GiB frame")
        let count = frames1G[frame].count
        return count.isMixed ? nil : state(differs: count.differs)
    }

    // MARK: - What the other files share

    /// By arithmetic, not by a branch: which of its pages a guest has shared nobody can predict.
    @inline(__always)
    func state(differs: Bool) -> Shareability { differs != header.isInitiallyShared ? .shared : .private }

    @inline(__always)
    func check(page: Int) {
        precondition(UInt(bitPattern: page) < UInt(bitPattern: pageCount), "no such page")
    }

    /// A range that passes can be added up without overflow.
    @inline(__always)
    func check(_ range: PageRange) {
        precondition(
            range.start >= 0 && range.count >= 0 && range.start <= pageCount
                && range.count <= pageCount - range.start, "pages past the end of the file")
    }

    /// The bits from page `start` up to the end of its word or up to `end`, whichever comes first.
    @inline(__always)
    static func mask(from start: Int, to end: Int) -> UInt64 {
        let wordStart = start & ~63
        let upper: UInt64 = end - wordStart >= 64 ? .max : (1 &<< UInt64(truncatingIfNeeded: end)) &- 1
        return upper & (.max &<< UInt64(truncatingIfNeeded: start))
    }
}
