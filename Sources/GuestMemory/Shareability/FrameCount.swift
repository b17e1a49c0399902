/// How many pages of a frame differ from the initial state, and whether what lies below says which.
///
/// A uniform frame has a number of its own for "none" and "all", the same for every frame: so whether a frame
/// is mixed can be seen from its entry alone, also where the file ends in the frame and it has fewer pages
/// than others. It has two of each, because a frame that was set at once is *stale*: what lies below it is out
/// of date. One that became uniform page by page is not, so that a page flipped to and fro pushes nothing
/// down. Zero: none, and not stale, as in memory fresh from the kernel.
struct FrameCount: BitwiseCopyable {
    /// More than 0: that many. 0: none; -1: all; -2: none, stale; -3: all, stale.
    let raw: Int32

    @inline(__always)
    init(raw: Int32) { self.raw = raw }

    /// `count` of the frame's `pages` pages, and what lies below says which.
    @inline(__always)
    init(_ count: Int, of pages: Int) { raw = count == pages ? -1 : Int32(truncatingIfNeeded: count) }

    /// None, or all, whatever lies below.
    @inline(__always)
    static func stale(all differ: Bool) -> FrameCount { FrameCount(raw: differ ? -3 : -2) }

    /// Whether the frame holds both states.
    @inline(__always)
    var isMixed: Bool { raw > 0 }

    /// Whether the pages of a uniform frame differ.
    @inline(__always)
    var differs: Bool { raw & 1 != 0 }

    /// Whether what lies below is out of date. Only in a uniform frame.
    @inline(__always)
    var isStale: Bool { raw < -1 }

    /// Whether the frame is uniform and in this state.
    @inline(__always)
    func isAll(_ differ: Bool) -> Bool {
        // Not by `isMixed`: of a page that is about to change, this is hardly ever so, and a processor can
        // rely on it; whether its frame is mixed depends on the other pages. The two numbers for "all" are odd,
        // those for "none" even: a sum that is 0 or 2 tells, without a branch on `differ`.
        (raw &+ (differ ? 3 : 2)) & ~2 == 0
    }

    /// The number, in a frame of `pages` pages.
    @inline(__always)
    func count(of pages: Int) -> Int {
        // By arithmetic, because nobody can predict whether a number is odd.
        let uniform = pages & (0 &- Int(raw & 1))
        return isMixed ? Int(raw) : uniform
    }
}
