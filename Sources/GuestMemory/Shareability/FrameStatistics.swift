/// How fragmented a file is: the frames that hold both private and shared pages.
///
/// A mixed frame cannot be mapped whole, neither by the guest's page tables nor by an IOMMU, and costs the
/// kernel a split when it becomes mixed and a merge when it becomes uniform again.
package struct FrameStatistics: BitwiseCopyable, Equatable, Sendable {
    /// 2 MiB frames that are mixed now.
    package var mixed2M = 0
    /// The most 2 MiB frames that were ever mixed at once, as seen after each change.
    package var mixed2MPeak = 0
    /// 1 GiB frames that are mixed now.
    package var mixed1G = 0
    /// The most 1 GiB frames that were ever mixed at once, as seen after each change.
    package var mixed1GPeak = 0

    package init() {}

    /// Notes a new maximum. Once per change, so that what a change passes through on its way is not counted.
    @inline(__always)
    mutating func notePeaks() {
        if mixed2M > mixed2MPeak { mixed2MPeak = mixed2M }
        if mixed1G > mixed1GPeak { mixed1GPeak = mixed1G }
    }
}
