import CBaseline
import GuestMemory

/// Where results go, so that the optimizer cannot prove that nobody wants them.
nonisolated(unsafe) private var sink = 0

@inline(never)
private func consume(_ value: Int) { unsafe sink &+= value }

/// The rows of the design's table about "these three arrays": what the ledger costs, by itself, next to the
/// same arrays in C. The targets are for a quiet machine; on another, C says what was to be had.
func ledgerBenchmarks(_ report: Reporter) {
    hotPages(report)
    fragmented(report)
    convertAll(report)
    create(report)
}

private typealias Contender = Reporter.Contender

/// A guest's bounce buffers: the same pages, shared and private again.
private func hotPages(_ report: Reporter) {
    let ledgers = Ledgers(pages: 16 * gibibyte)
    let hot = randomNumbers(1000, below: 16 * gibibyte, seed: 2)
    let order = randomNumbers(50_000, below: hot.count, seed: 3).map { hot[$0] }
    let flips = Flips(order, of: &ledgers.map.value)
    report.measureInTurns(
        operations: flips.pages.count,
        [
            Contender("ledger: flip one of 1,000 hot pages, 16 GiB", target: .atMost(20)) { ledgers.set(flips) },
            Contender("ledger: C, same arrays: flip one of 1,000 hot pages, 16 GiB") { ledgers.setInC(flips) },
            Contender("ledger: query and flip one of 1,000 hot pages, 16 GiB") {
                queryAndFlip(flips.pages, in: &ledgers.map.value)
            },
            Contender("ledger: C, same arrays: query and flip one of 1,000 hot pages, 16 GiB") {
                // SAFETY: of the calls of C in this file: the arrays are as long as said, and what they
                // hold are pages, or frames, of the map.
                unsafe cbaseline_ledger_flip(ledgers.inC, flips.pages, flips.pages.count)
            },
        ])
}

/// What the rows about a fragmented terabyte share. Made when the first of them runs, if one does.
private final class Fragmented {
    lazy var ledgers = Ledgers.fragmentedTebibyte()
    /// Nearly all private.
    lazy var pages = randomNumbers(1_000_000, below: tebibyte, seed: 4)
    /// Every other one shared, so that the state cannot be predicted.
    lazy var mixture: [Int] = {
        var shared: [Int] = []
        var rest = PageRange(start: 0, count: tebibyte)
        while let run = ledgers.map.value.nextRun(notIn: .private, within: rest) {
            shared += run.start..<run.end
            rest = PageRange(start: run.end, count: tebibyte - run.end)
        }
        var random = SeededRandom(seed: 6)
        return pages.map { random.next(below: 2) == 0 ? $0 : shared[random.next(below: shared.count)] }
    }()
    lazy var flips = Flips(Array(mixture.prefix(500_000)), of: &ledgers.map.value)
    lazy var frames = randomNumbers(100_000, below: ledgers.map.value.frameCount2M, seed: 5)
}

private func fragmented(_ report: Reporter) {
    let made = Fragmented()
    let size = "ledger: bytes of 1 TiB"
    if report.wants(size) { report.note("ledger, fragmented 1 TiB: \(fragmentation(of: made.ledgers.map.value))") }
    report.record(
        size, unit: "bytes", samples: report.wants(size) ? [Double(made.ledgers.map.value.allocatedBytes)] : [],
        target: .atMost(36_000_000))
    queries(report, made)
    frames(report, made)
    runs(report, made)
    randomFlips(report, made)
}

private func queries(_ report: Reporter, _ made: Fragmented) {
    report.measureInTurns(
        operations: 1_000_000,
        [
            Contender("ledger: query a page, independent, fragmented 1 TiB", target: .atMost(15)) {
                consume(countShared(made.pages, in: made.ledgers.map.value))
            },
            Contender("ledger: C, same arrays: query a page, independent, fragmented 1 TiB") {
                consume(unsafe cbaseline_ledger_query(made.ledgers.inC, made.pages, made.pages.count))
            },
            // A processor that guesses an answer goes on to the next question before it has read it: not
            // with this mixture.
            Contender("ledger: query a page, dependent, fragmented 1 TiB") {
                consume(queryDependently(made.mixture, in: made.ledgers.map.value))
            },
            Contender("ledger: C, same arrays: query a page, dependent, fragmented 1 TiB") {
                consume(
                    unsafe cbaseline_ledger_query_dependent(made.ledgers.inC, made.mixture, made.mixture.count))
            },
        ])
}

private func frames(_ report: Reporter, _ made: Fragmented) {
    report.measureInTurns(
        operations: 100_000,
        [
            Contender("ledger: is a 2 MiB frame uniform, random, fragmented 1 TiB", target: .atMost(4)) {
                consume(countMixed(made.frames, in: made.ledgers.map.value))
            },
            Contender("ledger: C, same arrays: is a 2 MiB frame uniform, random, fragmented 1 TiB") {
                consume(unsafe cbaseline_ledger_mixed(made.ledgers.inC, made.frames, made.frames.count))
            },
        ])
    report.measureInTurns(
        operations: tebibyte / 512,
        [
            Contender("ledger: is a 2 MiB frame uniform, in order, fragmented 1 TiB", target: .atMost(4)) {
                consume(countMixed2M(in: made.ledgers.map.value))
            },
            Contender("ledger: C, same arrays: is a 2 MiB frame uniform, in order, fragmented 1 TiB") {
                consume(unsafe cbaseline_ledger_mixed_in_order(made.ledgers.inC))
            },
        ])
    report.measure("ledger: is a 1 GiB frame uniform, fragmented 1 TiB", operations: 100 * 1024) {
        for _ in 0..<100 { consume(countMixed1G(in: made.ledgers.map.value)) }
    }
}

private func runs(_ report: Reporter, _ made: Fragmented) {
    // 1,000,000 shared pages make that many runs but for some neighbours.
    report.measureInTurns(
        operations: 1_000_000,
        [
            Contender("ledger: iterate runs, per run, fragmented 1 TiB") {
                consume(countRuns(in: made.ledgers.map.value))
            },
            Contender("ledger: C, same arrays: iterate runs, per run, fragmented 1 TiB") {
                consume(unsafe cbaseline_ledger_runs(made.ledgers.inC))
            },
        ])
    let unaligned = PageRange(start: 17, count: tebibyte - 40)
    report.measure("ledger: count pages of almost 1 TiB, fragmented", operations: 1000) {
        for _ in 0..<1000 { consume(made.ledgers.map.value.countPages(in: .shared, within: unaligned)) }
    }
}

private func randomFlips(_ report: Reporter, _ made: Fragmented) {
    // As many pages become private as shared, so that the map stays as fragmented as it was.
    report.measureInTurns(
        operations: 1_000_000,
        [
            Contender("ledger: flip a random page, fragmented 1 TiB", target: .atMost(80)) {
                made.ledgers.set(made.flips)
            },
            Contender("ledger: C, same arrays: flip a random page, fragmented 1 TiB") {
                made.ledgers.setInC(made.flips)
            },
            Contender("ledger: query and flip a random page, fragmented 1 TiB") {
                queryAndFlip(made.flips.pages, in: &made.ledgers.map.value)
            },
            Contender("ledger: C, same arrays: query and flip a random page, fragmented 1 TiB") {
                unsafe cbaseline_ledger_flip(made.ledgers.inC, made.flips.pages, made.flips.pages.count)
            },
        ])
}

private func convertAll(_ report: Reporter) {
    // The store to a 1 GiB entry has no branch on what it held, so that it does not matter that the map is
    // not fragmented. (Making it so again for every round would take longer than all else.)
    let ledgers = Ledgers(pages: tebibyte)
    let gibibytes = (0..<1024).map { PageRange(start: $0 * gibibyte, count: gibibyte) }
    report.measure("ledger: convert 1 GiB, to and fro, 1 TiB", operations: 1000 * gibibytes.count) {
        convertToAndFro(gibibytes, times: 500, in: &ledgers.map.value)
    }
    report.measureInTurns(
        operations: 1000,
        [
            Contender("ledger: convert 1 TiB, to and fro", target: .atMost(2000)) {
                convertToAndFro([PageRange(start: 0, count: tebibyte)], times: 500, in: &ledgers.map.value)
            },
            Contender("ledger: C, same arrays: convert 1 TiB, to and fro") {
                for index in 0..<1000 { unsafe cbaseline_ledger_set_all(ledgers.inC, index % 2 == 0 ? 1 : 0) }
            },
        ])
    report.measure("ledger: convert 1 TiB less a page at each end, to and fro", operations: 1000) {
        convertToAndFro([PageRange(start: 1, count: tebibyte - 2)], times: 500, in: &ledgers.map.value)
    }
}

private func create(_ report: Reporter) {
    report.measureInTurns(
        operations: 200,
        [
            Contender("ledger: create 1 TiB, two queries, destroy", target: .atMost(20_000)) {
                for index in 0..<200 {
                    let map = newMap(pages: tebibyte)
                    consume(Int(map.state(ofPage: index).rawValue))
                    consume(Int(map.state(ofPage: tebibyte - 1 - index).rawValue))
                }
            },
            Contender("ledger: C, same arrays: create 1 TiB, two queries, destroy") {
                for index in 0..<200 {
                    consume(
                        cbaseline_ledger_create_and_ask(tebibyte, pageSize, index, tebibyte - 1 - index))
                }
            },
        ])
}
