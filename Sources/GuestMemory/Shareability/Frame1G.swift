/// The ledger's entry for one 2 MiB frame. All zero: the initial state.
typealias Frame2M = FrameCount<UInt16>

/// The ledger's entry for one 1 GiB frame. All zero: the initial state.
struct Frame1G: BitwiseCopyable {
    var count: FrameCount<UInt32>
    /// 2 MiB frames below that are mixed. 0 in a uniform frame.
    var mixed2M: UInt16
    /// The 2 MiB entries below are out of date, because the whole frame was set at once. Only in a uniform
    /// frame. One that became uniform page by page left exact entries, so that a page flipped to and fro
    /// does not rewrite 512 of them each time.
    var isStaleBelow: Bool
}
