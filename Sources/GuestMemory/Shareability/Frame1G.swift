/// The ledger's entry for one 1 GiB frame. All zero: the initial state.
struct Frame1G: BitwiseCopyable {
    var count: FrameCount
    /// 2 MiB frames below that are mixed. 0 in a uniform frame.
    var mixed2M: UInt16
}

/// The ledger's entry for one 2 MiB frame. All zero: the initial state.
struct Frame2M: BitwiseCopyable {
    private let raw: Int16

    @inline(__always)
    init(_ count: FrameCount) { raw = Int16(truncatingIfNeeded: count.raw) }

    @inline(__always)
    var count: FrameCount { FrameCount(raw: Int32(raw)) }
}
