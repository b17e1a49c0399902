import Testing

@testable import GuestMemory

/// What happens to frames when they become mixed and uniform again, case by case.
@Suite struct ModelFrameTests {
    private static let frame2M = 512
    private static let frame1G = 512 * 512

    private func makeMap(_ pages: Int, _ pageSize: Int = 4096, _ initially: Shareability = .private) throws
        -> ShareabilityMap
    {
        guard let map = ShareabilityMap(pageCount: pages, pageSize: pageSize, initially: initially) else {
            throw GuestMemoryError(.noMemory, "mmap", nil, "no address space")
        }
        return map
    }

    @Test(arguments: Shareability.allCases) func startsUniform(_ initially: Shareability) throws {
        let map = try makeMap(3 * Self.frame1G + 5, 4096, initially)
        #expect(map.uniformState(of: PageRange(start: 0, count: map.pageCount)) == initially)
        #expect(map.uniformState(ofFrame1G: 3) == initially)
        #expect(map.uniformState(ofFrame2M: map.frameCount2M - 1) == initially)
        #expect(map.sharedPages == (initially == .shared ? map.pageCount : 0))
        #expect(map.nextRun(notIn: initially, within: PageRange(start: 0, count: map.pageCount)) == nil)
        #expect(map.statistics == FrameStatistics())
    }

    @Test func aPageMixesItsFramesAndUnmixesThem() throws {
        var map = try makeMap(4 * Self.frame1G)
        let page = Self.frame1G + 5 * Self.frame2M + 77
        map.set(PageRange(start: page, count: 1), to: .shared)
        #expect(map.uniformState(ofFrame2M: page / Self.frame2M) == nil)
        #expect(map.uniformState(ofFrame2M: page / Self.frame2M + 1) == .private)
        #expect(map.uniformState(ofFrame1G: 1) == nil)
        #expect(map.uniformState(ofFrame1G: 2) == .private)
        #expect(map.statistics.mixed2M == 1 && map.statistics.mixed1G == 1)
        map.set(PageRange(start: page, count: 1), to: .private)
        #expect(map.uniformState(ofFrame1G: 1) == .private)
        #expect(map.statistics.mixed2M == 0 && map.statistics.mixed1G == 0)
        #expect(map.statistics.mixed2MPeak == 1 && map.statistics.mixed1GPeak == 1)
    }

    /// A frame filled page by page becomes uniform of itself, in whatever order.
    @Test func collapsesPageByPage() throws {
        var map = try makeMap(2 * Self.frame2M)
        for page in stride(from: 0, to: Self.frame2M, by: 2) {
            map.set(PageRange(start: page, count: 1), to: .shared)
        }
        #expect(map.uniformState(ofFrame2M: 0) == nil)
        for page in stride(from: Self.frame2M - 1, to: 0, by: -2) {
            map.set(PageRange(start: page, count: 1), to: .shared)
        }
        #expect(map.uniformState(ofFrame2M: 0) == .shared)
        #expect(map.statistics.mixed2M == 0 && map.statistics.mixed1G == 1)
        map.set(PageRange(start: Self.frame2M, count: Self.frame2M), to: .shared)
        #expect(map.uniformState(ofFrame1G: 0) == .shared)
        #expect(map.statistics.mixed1G == 0)
    }

    /// Whatever lies below a frame that was set at once must not come through when it becomes mixed again.
    @Test(arguments: [4096, 16384, 65536]) func staleEntriesAreOverridden(_ pageSize: Int) throws {
        let frame1G = (1 << 30) / pageSize
        let frame2M = (2 << 20) / pageSize
        var map = try makeMap(2 * frame1G, pageSize)
        // Bits and entries of every kind below the first frame.
        for page in stride(from: 0, to: frame1G, by: frame2M / 2 + 1) {
            map.set(PageRange(start: page, count: 3), to: .shared)
        }
        map.set(PageRange(start: 2 * frame2M, count: frame2M), to: .shared)
        map.set(PageRange(start: 0, count: frame1G), to: .shared)
        #expect(map.sharedPages == frame1G)
        let hole = 7 * frame2M + 9
        map.set(PageRange(start: hole, count: 1), to: .private)
        let all = PageRange(start: 0, count: map.pageCount)
        #expect(map.nextRun(notIn: .private, within: all) == PageRange(start: 0, count: hole))
        let rest = PageRange(start: hole, count: map.pageCount - hole)
        #expect(
            map.nextRun(notIn: .private, within: rest)
                == PageRange(start: hole + 1, count: frame1G - hole - 1))
        #expect(map.countPages(in: .shared, within: PageRange(start: 1, count: frame1G - 2)) == frame1G - 3)
        #expect(map.statistics.mixed2M == 1 && map.statistics.mixed1G == 1)
        // And the same one level down.
        map.set(PageRange(start: 7 * frame2M, count: frame2M), to: .private)
        map.set(PageRange(start: 7 * frame2M, count: 1), to: .shared)
        #expect(map.countPages(in: .shared, within: PageRange(start: 7 * frame2M, count: frame2M)) == 1)
    }

    @Test func aPartialLastFrameIsUniformWhenItsPagesAgree() throws {
        let pages = Self.frame1G + Self.frame2M + 3
        var map = try makeMap(pages)
        map.set(PageRange(start: pages - 3, count: 3), to: .shared)
        #expect(map.uniformState(ofFrame2M: map.frameCount2M - 1) == .shared)
        #expect(map.uniformState(ofFrame1G: 1) == nil)
        #expect(map.statistics.mixed2M == 0 && map.statistics.mixed1G == 1)
        map.set(PageRange(start: Self.frame1G, count: Self.frame2M), to: .shared)
        #expect(map.uniformState(ofFrame1G: 1) == .shared)
        #expect(map.statistics.mixed1G == 0)
        // Set whole, then split: the last 2 MiB entry has fewer pages than the others.
        map.set(PageRange(start: Self.frame1G, count: pages - Self.frame1G), to: .private)
        map.set(PageRange(start: Self.frame1G, count: pages - Self.frame1G), to: .shared)
        map.set(PageRange(start: Self.frame1G, count: 1), to: .private)
        #expect(map.uniformState(ofFrame2M: map.frameCount2M - 1) == .shared)
        map.set(PageRange(start: pages - 1, count: 1), to: .private)
        #expect(map.uniformState(ofFrame2M: map.frameCount2M - 1) == nil)
        #expect(map.sharedPages == Self.frame2M + 1)
    }

    @Test func aFrameOfOnePageIsNeverMixed() throws {
        var map = try makeMap(Self.frame1G + 1)
        map.set(PageRange(start: Self.frame1G, count: 1), to: .shared)
        #expect(map.uniformState(ofFrame1G: 1) == .shared)
        #expect(map.uniformState(ofFrame2M: map.frameCount2M - 1) == .shared)
        #expect(map.statistics == FrameStatistics())
    }

    @Test func runsAreMergedAcrossFrames() throws {
        var map = try makeMap(4 * Self.frame1G)
        let run = PageRange(start: Self.frame1G - 700, count: 2 * Self.frame1G + 900)
        map.set(run, to: .shared)
        let all = PageRange(start: 0, count: map.pageCount)
        #expect(map.nextRun(notIn: .private, within: all) == run)
        #expect(map.statistics.mixed1G == 2 && map.statistics.mixed2M == 2)
        #expect(map.uniformState(of: run) == .shared)
        #expect(map.uniformState(of: PageRange(start: run.start - 1, count: 2)) == nil)
        // Clipped to what was asked about.
        let part = PageRange(start: run.start + 5, count: 10)
        #expect(map.nextRun(notIn: .private, within: part) == part)
        #expect(map.nextRun(notIn: .shared, within: part) == nil)
    }

    /// Peaks are of states the map was left in, not of what one change passes through.
    @Test func peaksAreSeenAfterEachChange() throws {
        var map = try makeMap(3 * Self.frame1G)
        for frame in 0..<10 { map.set(PageRange(start: frame * Self.frame2M, count: 1), to: .shared) }
        #expect(map.statistics.mixed2M == 10)
        // Mixes the frames at both ends, and unmixes those between.
        map.set(PageRange(start: 1, count: 2 * Self.frame1G), to: .shared)
        #expect(map.statistics.mixed2M == 1 && map.statistics.mixed1G == 1)
        #expect(map.statistics.mixed2MPeak == 10 && map.statistics.mixed1GPeak == 1)
    }

    @Test func emptyRanges() throws {
        var map = try makeMap(100)
        for start in [0, 50, 100] {
            let empty = PageRange(start: start, count: 0)
            map.set(empty, to: .shared)
            #expect(map.nextRun(notIn: .shared, within: empty) == nil)
            #expect(map.uniformState(of: empty) == nil)
            #expect(map.countPages(in: .private, within: empty) == 0)
        }
        #expect(map.sharedPages == 0)
    }

    @Test func aTebibyteTakes34Megabytes() throws {
        let map = try makeMap(1 << 28)
        #expect(map.allocatedBytes < 36_000_000)
        #expect(map.pageCount == 1 << 28 && map.pageSize == 4096 && map.initially == .private)
    }

    @Test func noAddressSpaceIsNil() {
        let map = ShareabilityMap(pageCount: Int.max >> 12, pageSize: 4096, initially: .private)
        // Not `map == nil`: the macro wants to copy what it compares.
        let isNil = map == nil
        #expect(isNil)
    }

    @Test func pagesPastTheEndTrap() async {
        await #expect(processExitsWith: .failure) {
            let map = ShareabilityMap(pageCount: 10, pageSize: 4096, initially: .private)
            _ = map?.state(ofPage: 10)
        }
        await #expect(processExitsWith: .failure) {
            var map = ShareabilityMap(pageCount: 10, pageSize: 4096, initially: .private)
            map?.set(PageRange(start: 9, count: 2), to: .shared)
        }
        await #expect(processExitsWith: .failure) {
            let map = ShareabilityMap(pageCount: 10, pageSize: 4096, initially: .private)
            _ = map?.nextRun(notIn: .shared, within: PageRange(start: 1, count: .max))
        }
    }
}
