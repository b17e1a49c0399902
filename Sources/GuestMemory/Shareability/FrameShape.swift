/// Which pages make up which frame, in a file of a given size.
struct FrameShape: BitwiseCopyable {
    let pageCount: Int
    /// A page's 2 MiB frame is `page >> shift2M`.
    let shift2M: Int
    /// A page's 1 GiB frame is `page >> shift1G`.
    let shift1G: Int
    let lastFrame2M: Int
    let lastFrame1G: Int
    /// Pages in every frame but the last.
    let full2M: Int
    let full1G: Int
    /// Pages in the last frame, which ends where the file ends.
    private let tail2M: Int
    private let tail1G: Int

    /// 2 MiB frames in a 1 GiB frame, whatever the page size, and its logarithm.
    static var fanout: Int { 1 << fanoutShift }
    static var fanoutShift: Int { 9 }

    init(pageCount: Int, pageSize: Int) {
        self.pageCount = pageCount
        shift2M = 21 - pageSize.trailingZeroBitCount
        shift1G = 30 - pageSize.trailingZeroBitCount
        full2M = 1 << shift2M
        full1G = 1 << shift1G
        lastFrame2M = (pageCount - 1) >> shift2M
        lastFrame1G = (pageCount - 1) >> shift1G
        tail2M = pageCount - (lastFrame2M << shift2M)
        tail1G = pageCount - (lastFrame1G << shift1G)
    }

    /// How many pages the frame has.
    @inline(__always)
    func pages(inFrame2M frame: Int) -> Int { frame == lastFrame2M ? tail2M : full2M }
    /// How many pages the frame has.
    @inline(__always)
    func pages(inFrame1G frame: Int) -> Int { frame == lastFrame1G ? tail1G : full1G }
}
