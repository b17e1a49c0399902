import CGmem

/// Pages of a file at an address of this process. The pages may lie past the end of the file, where
/// every touch is SIGBUS whatever happens.
struct HostMapping {
    var address: UInt
    var pages: PageRange
    var pageSize: Int
    var protection: Int32
    /// MADV_DONTFORK and MADV_DONTDUMP, which a piece that is mapped anew does not inherit.
    var isForkless = false
    var isDumpless = false

    var length: Int { pages.count * pageSize }
    var end: UInt { address + UInt(length) }

    func overlaps(_ start: UInt, _ end: UInt) -> Bool { address < end && start < self.end }

    /// The part between two addresses, which must be page boundaries; nil when there is none.
    func part(_ start: UInt, _ end: UInt) -> HostMapping? {
        let low = max(start, address)
        let high = min(end, self.end)
        if low >= high { return nil }
        var part = self
        part.address = low
        part.pages = PageRange(
            start: pages.start + Int(low - address) / pageSize, count: Int(high - low) / pageSize)
        return part
    }

    /// The part that shows some pages of the file; nil when there is none.
    @inline(__always)
    func part(showing wanted: PageRange) -> HostMapping? {
        let low = max(wanted.start, pages.start)
        let high = min(wanted.end, pages.end)
        if low >= high { return nil }
        var part = self
        part.address = address + UInt((low - pages.start) * pageSize)
        part.pages = PageRange(start: low, count: high - low)
        return part
    }
}

extension PageRange {
    /// Empty when the ranges do not touch.
    @inline(__always)
    func intersection(_ other: PageRange) -> PageRange {
        let low = max(start, other.start)
        let high = min(end, other.end)
        return PageRange(start: low, count: max(0, high - low))
    }

    func contains(_ other: PageRange) -> Bool { start <= other.start && other.end <= end }
}
