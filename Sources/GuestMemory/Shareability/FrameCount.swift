/// How many pages of a frame differ from the initial state.
///
/// "All of them" has a number of its own, the same for every frame: so whether a frame is mixed can be seen
/// from its entry alone, also where the file ends in the frame and it has fewer pages than others.
struct FrameCount<Raw: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>: BitwiseCopyable {
    private let raw: Raw

    /// `count` of the frame's `pages` pages.
    @inline(__always)
    init(_ count: Int, of pages: Int) { raw = count == pages ? .max : Raw(truncatingIfNeeded: count) }

    /// None, or all.
    @inline(__always)
    init(all differ: Bool) { raw = differ ? .max : 0 }

    /// Whether the frame holds both states.
    @inline(__always)
    var isMixed: Bool {
        // All wraps to 0, none becomes 1: one comparison answers both questions.
        raw &+ 1 > 1
    }

    /// Whether the pages of a uniform frame differ.
    @inline(__always)
    var differs: Bool { raw != 0 }

    /// The number, in a frame of `pages` pages.
    @inline(__always)
    func count(of pages: Int) -> Int { raw == .max ? pages : Int(truncatingIfNeeded: raw) }
}
