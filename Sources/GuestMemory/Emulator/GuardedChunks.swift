/// Which pages of a file are under userfaultfd's guard in its mappings.
///
/// Where the guard stands, a shared page must be allocated and in the page table, or a touch of it would
/// be refused like that of a private one; where it does not, shared memory is as lazy as any. So the
/// guard covers little more than the private pages: the file is cut into at most 512 chunks, and in each
/// the guard covers one run, from the first private page to the last. That also bounds the kernel
/// mappings a host mapping is split into, to some 1,000, however fragmented the file.
struct GuardedChunks {
    /// Pages in a chunk as a power of two.
    let shift: Int
    /// By chunk: the pages under guard. All empty while the file has no mapping.
    private(set) var runs: [PageRange]

    init(pageCount: Int) {
        var shift = 9
        while (pageCount - 1) >> shift >= 512 { shift += 1 }
        self.shift = shift
        runs = Array(repeating: PageRange(start: 0, count: 0), count: (pageCount - 1) >> shift + 1)
    }

    subscript(chunk: Int) -> PageRange {
        get { runs[chunk] }
        set { runs[chunk] = newValue }
    }

    func chunks(_ pages: PageRange) -> ClosedRange<Int> { pages.start >> shift...(pages.end - 1) >> shift }

    func pages(ofChunk chunk: Int) -> PageRange { PageRange(start: chunk << shift, count: 1 << shift) }

    /// Whether the guard covers all of the pages, asked the quick way: true only within one chunk.
    @inline(__always)
    func covers(_ pages: PageRange) -> Bool {
        let chunk = pages.start >> shift
        return (pages.end - 1) >> shift == chunk && runs[chunk].contains(pages)
    }

    /// Calls with each maximal part of the pages that is under guard, or is not; stops at an error.
    func forEachPart(of pages: PageRange, _ body: (PageRange, Bool) -> Int) -> Int {
        var open: (pages: PageRange, isGuarded: Bool)?
        for chunk in chunks(pages) {
            let all = self.pages(ofChunk: chunk).intersection(pages)
            var guarded = runs[chunk].intersection(all)
            if guarded.isEmpty { guarded = PageRange(start: all.end, count: 0) }
            let parts = [
                (PageRange(start: all.start, count: guarded.start - all.start), false), (guarded, true),
                (PageRange(start: guarded.end, count: all.end - guarded.end), false),
            ]
            for (part, isGuarded) in parts where !part.isEmpty {
                if let last = open, last.isGuarded == isGuarded {
                    open = (PageRange(start: last.pages.start, count: part.end - last.pages.start), isGuarded)
                    continue
                }
                if let last = open {
                    let result = body(last.pages, last.isGuarded)
                    if result != 0 { return result }
                }
                open = (part, isGuarded)
            }
        }
        if let last = open { return body(last.pages, last.isGuarded) }
        return 0
    }
}
