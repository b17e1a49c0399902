import Testing

@testable import GuestMemory

/// The ledger against models that are too simple to be wrong, over a million random operations.
@Suite struct ModelRandomTests {
    struct Size: CustomTestStringConvertible {
        var pages: Int
        var pageSize: Int
        var operations: Int
        var testDescription: String { "\(pages) pages of \(pageSize >> 10) KiB" }
    }

    /// Around the borders of words and 2 MiB frames, for every page size.
    static let small: [Size] = [
        (4, [1, 2, 63, 64, 65, 100, 511, 512, 513, 1000, 1024, 1025, 5000]),
        (16, [1, 63, 64, 65, 127, 128, 129, 1000]),
        (64, [1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 1000]),
    ].flatMap { (kibibytes: Int, counts: [Int]) in
        counts.map { Size(pages: $0, pageSize: kibibytes << 10, operations: 16_000) }
    }

    /// Around the border of a 1 GiB frame.
    static let gibibyte: [Size] = [4, 16, 64].flatMap { (kibibytes: Int) in
        [-1, 0, 1].map { Size(pages: (1 << 20) / kibibytes + $0, pageSize: kibibytes << 10, operations: 20_000) }
    }

    static let several: [Size] = [4, 16, 64].map { (kibibytes: Int) in
        Size(pages: (3 << 20) / kibibytes + 777, pageSize: kibibytes << 10, operations: 24_000)
    }

    static let huge: [Size] =
        [4, 16, 64].map { (kibibytes: Int) in
            Size(pages: (1 << 30) / kibibytes, pageSize: kibibytes << 10, operations: 70_000)
        } + [Size(pages: (700 << 20) / 4 + 513, pageSize: 4 << 10, operations: 30_000)]

    @Test func aMillionOperations() {
        let all = Self.small + Self.gibibyte + Self.several + Self.huge
        #expect(all.reduce(0) { $0 + $1.operations } >= 1_000_000)
    }

    @Test(arguments: small) func aroundTwoMebibytes(_ size: Size) {
        compare(size, everyStep: true) { NaiveModel(pageCount: size.pages, pageSize: size.pageSize, initially: $0) }
    }

    @Test(arguments: gibibyte) func aroundOneGibibyte(_ size: Size) {
        compare(size, everyStep: false) { NaiveModel(pageCount: size.pages, pageSize: size.pageSize, initially: $0) }
    }

    @Test(arguments: several) func severalGibibytes(_ size: Size) {
        compare(size, everyStep: false) { NaiveModel(pageCount: size.pages, pageSize: size.pageSize, initially: $0) }
    }

    @Test(arguments: huge) func aTebibyte(_ size: Size) {
        compare(size, everyStep: true) { BorderModel(pageSize: size.pageSize, initially: $0) }
    }

    /// Once more with the model that can count mixed frames after every change.
    @Test(arguments: gibibyte + several) func statisticsOfGibibytes(_ size: Size) {
        var size = size
        size.operations /= 4
        compare(size, everyStep: true) { BorderModel(pageSize: size.pageSize, initially: $0) }
    }

    /// The model of the huge sizes against the model of the small ones.
    @Test func modelsAgree() {
        let size = Size(pages: 3000, pageSize: 4096, operations: 0)
        var random = SeededRandom(seed: SeededRandom.modelSeed)
        var ranges = ModelRanges(size, &random)
        let naive = NaiveModel(pageCount: size.pages, pageSize: size.pageSize, initially: .shared)
        let whole = PageRange(start: 0, count: size.pages)
        let border = BorderModel(pageSize: size.pageSize, initially: .shared)
        for _ in 0..<5000 {
            let range = ranges.next(&random)
            let state: Shareability = random.next(below: 2) == 0 ? .private : .shared
            naive.set(range, to: state)
            border.set(range, to: state)
            let asked = ranges.next(&random)
            guard naive.mixedFrames(whole) == border.mixedFrames(whole),
                naive.countShared(asked) == border.countShared(asked),
                naive.nextRun(notIn: state, within: asked) == border.nextRun(notIn: state, within: asked),
                naive.state(ofPage: range.start % size.pages) == border.state(ofPage: range.start % size.pages)
            else {
                Issue.record("the models differ after \(range) to \(state), seed \(SeededRandom.modelSeed)")
                return
            }
        }
    }

    /// Does the same to a map and a model, and asks both. `everyStep`: the number of mixed frames is compared
    /// after every change, and the most there ever were with it, by counting those that the change could
    /// reach. All of them, and every run, are compared now and then.
    private func compare(_ size: Size, everyStep: Bool, _ makeModel: (Shareability) -> any PageModel) {
        let seed = SeededRandom.modelSeed &+ UInt64(size.pages) &* 31 &+ UInt64(size.pageSize)
        var random = SeededRandom(seed: seed)
        // Half the sizes start out shared.
        let initially: Shareability = random.next(below: 2) == 0 ? .private : .shared
        guard
            var map = ShareabilityMap(pageCount: size.pages, pageSize: size.pageSize, initially: initially)
        else {
            Issue.record("no address space")
            return
        }
        let model = makeModel(initially)
        var ranges = ModelRanges(size, &random)
        var shared = initially == .shared ? size.pages : 0
        var mixed = (mixed2M: 0, mixed1G: 0)
        var peaks = (mixed2M: 0, mixed1G: 0)
        let frame2M = (2 << 20) / size.pageSize
        let frame1G = (1 << 30) / size.pageSize

        for step in 0..<size.operations {
            let range = ranges.next(&random)
            let state: Shareability = random.next(below: 2) == 0 ? .private : .shared
            var agree: Bool
            let what = random.next(below: 100)
            switch what {
            case ..<50:
                shared += (state == .shared ? range.count : 0) - model.countShared(range)
                let frames = wholeFrames(around: range, size)
                let before = everyStep ? model.mixedFrames(frames) : (0, 0)
                model.set(range, to: state)
                map.set(range, to: state)
                agree = map.sharedPages == shared && map.privatePages == size.pages - shared
                if everyStep {
                    let after = model.mixedFrames(frames)
                    mixed = (mixed.mixed2M + after.0 - before.0, mixed.mixed1G + after.1 - before.1)
                    peaks = (max(peaks.mixed2M, mixed.mixed2M), max(peaks.mixed1G, mixed.mixed1G))
                    let statistics = map.statistics
                    agree =
                        agree && statistics.mixed2M == mixed.mixed2M && statistics.mixed1G == mixed.mixed1G
                        && statistics.mixed2MPeak == peaks.mixed2M && statistics.mixed1GPeak == peaks.mixed1G
                }
            case ..<62:
                let page = min(range.start, size.pages - 1)
                agree = map.state(ofPage: page) == model.state(ofPage: page)
            case ..<75:
                agree = map.nextRun(notIn: state, within: range) == model.nextRun(notIn: state, within: range)
            case ..<83:
                agree = map.uniformState(of: range) == model.uniformState(of: range)
            case ..<90:
                let count = model.countShared(range)
                agree =
                    map.countPages(in: .shared, within: range) == count
                    && map.countPages(in: .private, within: range) == range.count - count
            case ..<95:
                let frame = min(range.start, size.pages - 1) / frame2M
                let pages = PageRange(
                    start: frame * frame2M, count: min(frame2M, size.pages - frame * frame2M))
                agree = map.uniformState(ofFrame2M: frame) == model.uniformState(of: pages)
            default:
                let frame = min(range.start, size.pages - 1) / frame1G
                let pages = PageRange(
                    start: frame * frame1G, count: min(frame1G, size.pages - frame * frame1G))
                agree = map.uniformState(ofFrame1G: frame) == model.uniformState(of: pages)
            }
            if agree, step % 5000 == 4999 { agree = agreeEverywhere(map, model) }
            if !agree {
                Issue.record(
                    """
                    step \(step), kind \(what), \(range), \(state), initially \(initially): \
                    GMEM_SEED=\(SeededRandom.modelSeed) repeats it
                    """)
                return
            }
        }
    }

    /// The 1 GiB frames that a range touches, whole.
    private func wholeFrames(around range: PageRange, _ size: Size) -> PageRange {
        let frame = (1 << 30) / size.pageSize
        let start = range.start / frame * frame
        return PageRange(start: start, count: min((range.end + frame - 1) / frame * frame, size.pages) - start)
    }

    /// Every run and every frame.
    private func agreeEverywhere(_ map: borrowing ShareabilityMap, _ model: any PageModel) -> Bool {
        var rest = PageRange(start: 0, count: map.pageCount)
        while true {
            let run = map.nextRun(notIn: .private, within: rest)
            if run != model.nextRun(notIn: .private, within: rest) { return false }
            guard let run else { break }
            rest = PageRange(start: run.end, count: map.pageCount - run.end)
        }
        let mixed = model.mixedFrames(PageRange(start: 0, count: map.pageCount))
        var mixed1G = 0
        for frame in 0..<map.frameCount1G where map.uniformState(ofFrame1G: frame) == nil { mixed1G += 1 }
        var mixed2M = 0
        // Half a million calls in a terabyte: the statistics have to do there.
        if map.frameCount2M <= 1 << 13 {
            for frame in 0..<map.frameCount2M where map.uniformState(ofFrame2M: frame) == nil { mixed2M += 1 }
        } else {
            mixed2M = mixed.mixed2M
        }
        return mixed1G == mixed.mixed1G && mixed2M == mixed.mixed2M
            && map.statistics.mixed1G == mixed.mixed1G && map.statistics.mixed2M == mixed.mixed2M
    }
}

/// Ranges that go wrong first: around the borders of words, frames and the file, whole frames, and any.
struct ModelRanges {
    private let pages: Int
    private let frame2M: Int
    private let frame1G: Int
    /// Where most of it happens, so that the same frames become mixed and uniform again many times.
    private var centres: [Int]

    init(_ size: ModelRandomTests.Size, _ random: inout SeededRandom) {
        pages = size.pages
        frame2M = (2 << 20) / size.pageSize
        frame1G = (1 << 30) / size.pageSize
        centres = [0, pages]
        for _ in 0..<3 {
            centres.append(random.next(below: pages))
            centres.append(random.next(below: pages / frame2M + 1) * frame2M)
            centres.append(random.next(below: pages / frame1G + 1) * frame1G)
        }
    }

    private func clamp(_ page: Int) -> Int { min(max(page, 0), pages) }

    private mutating func near(_ random: inout SeededRandom) -> Int {
        let centre = centres[random.next(below: centres.count)]
        let spread: Int
        switch random.next(below: 8) {
        case 0: spread = 0
        case 1...3: spread = 3
        case 4, 5: spread = 70
        case 6: spread = frame2M + 2
        default: spread = 5 * frame2M
        }
        return clamp(centre - spread + random.next(below: 2 * spread + 1))
    }

    /// Whether ranges of this kind may span the file.
    private func isWide(_ kind: Int) -> Bool { (200..<270).contains(kind) || kind >= 385 }

    mutating func next(_ random: inout SeededRandom) -> PageRange {
        let start: Int
        let end: Int
        var kind = random.next(below: 400)
        // A step over hundreds of 1 GiB frames costs a debug build a thousand others: fewer of them.
        if pages > 64 * frame1G && isWide(kind) && random.next(below: 5) != 0 { kind = 330 }
        switch kind {
        case ..<140:
            start = near(&random)
            end = start + 1
        case ..<200:
            start = near(&random)
            end = start + random.next(below: 130)
        case ..<270:
            (start, end) = (near(&random), near(&random))
        case ..<330:
            start = near(&random) / frame2M * frame2M
            end = start + frame2M * (1 + random.next(below: 3))
        case ..<370:
            start = near(&random) / frame1G * frame1G
            end = start + frame1G * (1 + random.next(below: 2))
        case ..<385:
            start = near(&random) / frame1G * frame1G + random.next(below: 3) - 1
            end = start + frame1G
        case ..<395:
            (start, end) = (random.next(below: pages + 1), random.next(below: pages + 1))
        default:
            (start, end) = (0, pages)
        }
        let low = clamp(min(start, end))
        return PageRange(start: low, count: clamp(max(start, end)) - low)
    }
}
