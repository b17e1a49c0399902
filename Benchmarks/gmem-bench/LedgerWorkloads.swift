import CBaseline
import GuestMemory

let pageSize = 4096
let gibibyte = (1 << 30) / pageSize
let tebibyte = 1024 * gibibyte

/// Numbers drawn before the clock runs, so that drawing them is not measured.
func randomNumbers(_ count: Int, below bound: Int, seed: UInt64) -> [Int] {
    var random = SeededRandom(seed: seed)
    return (0..<count).map { _ in random.next(below: bound) }
}

/// A ledger, all private to begin with, and the same in C.
///
/// `@safe`: the C ledger lives as long as this.
@safe
final class Ledgers {
    /// At an address of its own, as the library holds it (see `MemoryFile.ledger`).
    let map: Cell<ShareabilityMap>
    let inC: OpaquePointer

    init(pages: Int) {
        map = Cell(newMap(pages: pages))
        guard let ledger = unsafe cbaseline_ledger_create(pages, pageSize) else { fatalError("no C ledger") }
        unsafe inC = unsafe ledger
    }

    deinit { unsafe cbaseline_ledger_destroy(inC) }

    func set(_ flips: Flips) { flips.make(in: &map.value) }

    func setInC(_ flips: Flips) {
        // SAFETY: of the calls of C below: the arrays are as long as said, and name pages of the map.
        unsafe cbaseline_ledger_set(inC, flips.pages, flips.shared, flips.pages.count)
    }

    /// 1 TiB, private but for 1,000,000 shared pages anywhere.
    static func fragmentedTebibyte() -> Ledgers {
        let result = Ledgers(pages: tebibyte)
        var random = SeededRandom(seed: 1)
        var drawn = Flips()
        while result.map.value.sharedPages < 1_000_000 {
            let page = random.next(below: tebibyte)
            drawn.append(page, to: .shared)
            result.map.value.set(PageRange(start: page, count: 1), to: .shared)
        }
        result.setInC(drawn)
        return result
    }
}

/// Single pages, and the state that each is set to.
///
/// A *flip* is what one page's conversion costs the ledger: the page is set to the opposite of its state, which
/// is known from the question that came before (has it to be converted at all?) and is not asked for again.
struct Flips {
    private(set) var pages: [Int] = []
    /// 1 for shared: what C takes, too.
    private(set) var shared: [UInt8] = []

    init() {}

    /// One flip of each page in this order, page by page what the map makes necessary; and all of it once
    /// more, so that the map ends as it began and the same flips can be made again.
    init(_ order: [Int], of map: inout ShareabilityMap) {
        for page in order + order {
            let state = map.state(ofPage: page).opposite
            append(page, to: state)
            map.set(PageRange(start: page, count: 1), to: state)
        }
    }

    mutating func append(_ page: Int, to state: Shareability) {
        pages.append(page)
        shared.append(state.rawValue)
    }

    func make(in map: inout ShareabilityMap) {
        for index in pages.indices {
            map.set(PageRange(start: pages[index], count: 1), to: shared[index] == 0 ? .private : .shared)
        }
    }
}

func newMap(pages: Int) -> ShareabilityMap {
    guard let map = ShareabilityMap(pageCount: pages, pageSize: pageSize, initially: .private) else {
        fatalError("no address space for a ledger of \(pages) pages")
    }
    return map
}

func fragmentation(of map: borrowing ShareabilityMap) -> String {
    let statistics = map.statistics
    return """
        \(map.sharedPages) scattered shared pages, \(statistics.mixed2M) of \(map.frameCount2M) 2 MiB frames \
        and \(statistics.mixed1G) of \(map.frameCount1G) 1 GiB frames mixed
        """
}

// The work of the rows. Each takes the map as a parameter: a closure that captures a non-copyable value
// copies it before it calls a method.

func queryAndFlip(_ pages: [Int], in map: inout ShareabilityMap) {
    for page in pages { map.set(PageRange(start: page, count: 1), to: map.state(ofPage: page).opposite) }
}

func countShared(_ pages: [Int], in map: borrowing ShareabilityMap) -> Int {
    var shared = 0
    for page in pages where map.state(ofPage: page) == .shared { shared &+= 1 }
    return shared
}

/// Each answer is part of the next question, so that no two can be answered at once.
func queryDependently(_ pages: [Int], in map: borrowing ShareabilityMap) -> Int {
    var last = 0
    for page in pages { last = Int(map.state(ofPage: page ^ (last &<< 20)).rawValue) }
    return last
}

func countMixed(_ frames: [Int], in map: borrowing ShareabilityMap) -> Int {
    var mixed = 0
    for frame in frames where map.uniformState(ofFrame2M: frame) == nil { mixed &+= 1 }
    return mixed
}

func countMixed2M(in map: borrowing ShareabilityMap) -> Int {
    var mixed = 0
    for frame in 0..<map.frameCount2M where map.uniformState(ofFrame2M: frame) == nil { mixed &+= 1 }
    return mixed
}

func countMixed1G(in map: borrowing ShareabilityMap) -> Int {
    var mixed = 0
    for frame in 0..<map.frameCount1G where map.uniformState(ofFrame1G: frame) == nil { mixed &+= 1 }
    return mixed
}

/// The runs of shared pages.
func countRuns(in map: borrowing ShareabilityMap) -> Int {
    let pages = map.pageCount
    var rest = PageRange(start: 0, count: pages)
    var runs = 0
    while let run = map.nextRun(notIn: .private, within: rest) {
        runs &+= 1
        rest = PageRange(start: run.end, count: pages - run.end)
    }
    return runs
}

/// Sets each range to shared and back to private.
func convertToAndFro(_ ranges: [PageRange], times: Int, in map: inout ShareabilityMap) {
    for _ in 0..<times {
        for range in ranges { map.set(range, to: .shared) }
        for range in ranges { map.set(range, to: .private) }
    }
}
