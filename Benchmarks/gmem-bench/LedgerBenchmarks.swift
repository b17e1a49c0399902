import GuestMemory

/// Where results go, so that the optimizer cannot prove that nobody wants them.
nonisolated(unsafe) private var sink = 0

@inline(never)
private func consume(_ value: Int) { unsafe sink &+= value }

/// The rows of the design's table about "these three arrays": what the ledger costs, by itself.
func ledgerBenchmarks(_ report: Reporter) {
    hotPages(report)
    fragmented(report)
    frames(report)
    convertAll(report)
    create(report)
}

private let pageSize = 4096
private let gibibyte = (1 << 30) / pageSize
private let tebibyte = 1024 * gibibyte
private let scattered = 1_000_000

/// Numbers that look random, the same in every run.
private struct Random {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next(below bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        mixed ^= mixed >> 31
        return Int(truncatingIfNeeded: mixed.multipliedFullWidth(by: UInt64(bound)).high)
    }
}

private func newMap(pages: Int) -> ShareabilityMap {
    guard let map = ShareabilityMap(pageCount: pages, pageSize: pageSize, initially: .private) else {
        fatalError("no address space for a ledger of \(pages) pages")
    }
    return map
}

/// 1 TiB, private but for 1,000,000 shared pages anywhere.
private func newFragmentedMap() -> ShareabilityMap {
    var map = newMap(pages: tebibyte)
    var random = Random(seed: 1)
    while map.sharedPages < scattered {
        map.set(PageRange(start: random.next(below: tebibyte), count: 1), to: .shared)
    }
    return map
}

/// Pages drawn before the clock runs, so that drawing them is not measured.
private func randomPages(_ count: Int, below bound: Int, seed: UInt64) -> [Int] {
    var random = Random(seed: seed)
    return (0..<count).map { _ in random.next(below: bound) }
}

/// A guest's bounce buffers: the same pages, shared and private again.
private func hotPages(_ report: Reporter) {
    let hot = randomPages(1000, below: 16 * gibibyte, seed: 2)
    let order = randomPages(100_000, below: hot.count, seed: 3).map { hot[$0] }
    var map = newMap(pages: 16 * gibibyte)
    report.measure("ledger: flip one of 1,000 hot pages, 16 GiB", operations: order.count) {
        for page in order {
            map.set(PageRange(start: page, count: 1), to: map.state(ofPage: page).opposite)
        }
        consume(map.sharedPages)
    }
    // The state known beforehand, as it is to somebody who converts: the flip without the question.
    report.measure("ledger: set one of 1,000 hot pages, 16 GiB", operations: 100 * hot.count) {
        var state = Shareability.private
        for _ in 0..<100 {
            state = state.opposite
            for page in hot { map.set(PageRange(start: page, count: 1), to: state) }
        }
        consume(map.sharedPages)
    }
}

private func fragmented(_ report: Reporter) {
    var map = newFragmentedMap()
    let statistics = map.statistics
    print(
        "ledger: 1 TiB with \(map.sharedPages) scattered shared pages: \(map.allocatedBytes) bytes of arrays,",
        "\(statistics.mixed2M) of \(map.frameCount2M) 2 MiB frames and \(statistics.mixed1G) of",
        "\(map.frameCount1G) 1 GiB frames mixed")

    let pages = randomPages(1_000_000, below: tebibyte, seed: 4)
    report.measure("ledger: query a page, independent, fragmented 1 TiB", operations: pages.count) {
        var shared = 0
        for page in pages where map.state(ofPage: page) == .shared { shared &+= 1 }
        consume(shared)
    }
    // Every other page asked about is shared, so that the answer cannot be predicted, and the next question
    // hangs on it. In the row above the processor guesses "private" and is on its way already.
    var random = Random(seed: 6)
    var shared: [Int] = []
    var rest = PageRange(start: 0, count: tebibyte)
    while let run = map.nextRun(notIn: .private, within: rest) {
        shared.append(run.start)
        rest = PageRange(start: run.end, count: tebibyte - run.end)
    }
    let mixture = pages.map { random.next(below: 2) == 0 ? $0 : shared[random.next(below: shared.count)] }
    report.measure("ledger: query a page, dependent, fragmented 1 TiB", operations: mixture.count) {
        var last = 0
        for page in mixture { last = Int(map.state(ofPage: page ^ (last &<< 1)).rawValue) }
        consume(last)
    }
    let whole = PageRange(start: 0, count: tebibyte)
    report.measure("ledger: iterate runs, per run, fragmented 1 TiB", operations: map.sharedPages) {
        var rest = whole
        var runs = 0
        while let run = map.nextRun(notIn: .private, within: rest) {
            runs &+= 1
            rest = PageRange(start: run.end, count: tebibyte - run.end)
        }
        consume(runs)
    }
    let unaligned = PageRange(start: 17, count: tebibyte - 40)
    report.measure("ledger: count pages of almost 1 TiB, fragmented", operations: 1000) {
        for _ in 0..<1000 { consume(map.countPages(in: .shared, within: unaligned)) }
    }
    // Last, because it changes the map: each round shares a million more pages, or takes them back.
    report.measure("ledger: flip a random page, fragmented 1 TiB", operations: pages.count, rounds: 5) {
        for page in pages {
            map.set(PageRange(start: page, count: 1), to: map.state(ofPage: page).opposite)
        }
        consume(map.sharedPages)
    }
}

private func frames(_ report: Reporter) {
    let map = newFragmentedMap()
    let frames = randomPages(100_000, below: map.frameCount2M, seed: 5)
    report.measure("ledger: is a 2 MiB frame uniform, random, fragmented 1 TiB", operations: frames.count) {
        var mixed = 0
        for frame in frames where map.uniformState(ofFrame2M: frame) == nil { mixed &+= 1 }
        consume(mixed)
    }
    report.measure("ledger: is a 2 MiB frame uniform, in order, fragmented 1 TiB", operations: map.frameCount2M) {
        var mixed = 0
        for frame in 0..<map.frameCount2M where map.uniformState(ofFrame2M: frame) == nil { mixed &+= 1 }
        consume(mixed)
    }
    report.measure("ledger: is a 1 GiB frame uniform, fragmented 1 TiB", operations: 100 * map.frameCount1G) {
        var mixed = 0
        for _ in 0..<100 {
            for frame in 0..<map.frameCount1G where map.uniformState(ofFrame1G: frame) == nil { mixed &+= 1 }
        }
        consume(mixed)
    }
}

private func convertAll(_ report: Reporter) {
    // The store to a 1 GiB entry has no branch on what it held, so that a map that was fragmented costs the
    // same as one that still is. (Making it fragmented again for every round would take longer than all else.)
    var map = newFragmentedMap()
    report.measure("ledger: convert 1 GiB, to and fro, 1 TiB", operations: 1000 * 1024) {
        var state = Shareability.private
        for _ in 0..<1000 {
            state = state.opposite
            for frame in 0..<1024 {
                map.set(PageRange(start: frame * gibibyte, count: gibibyte), to: state)
            }
        }
        consume(map.sharedPages)
    }
    report.measure("ledger: convert 1 TiB, to and fro", operations: 1000) {
        var state = Shareability.private
        for _ in 0..<1000 {
            state = state.opposite
            map.set(PageRange(start: 0, count: tebibyte), to: state)
        }
        consume(map.sharedPages)
    }
    report.measure("ledger: convert 1 TiB less a page at each end, to and fro", operations: 1000) {
        var state = Shareability.private
        for _ in 0..<1000 {
            state = state.opposite
            map.set(PageRange(start: 1, count: tebibyte - 2), to: state)
        }
        consume(map.sharedPages)
    }
}

private func create(_ report: Reporter) {
    report.measure("ledger: create 1 TiB, two queries, destroy", operations: 200) {
        for index in 0..<200 {
            let map = newMap(pages: tebibyte)
            consume(Int(map.state(ofPage: index).rawValue))
            consume(Int(map.state(ofPage: tebibyte - 1 - index).rawValue))
        }
    }
}
