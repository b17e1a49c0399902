import CGmem

@testable import GuestMemory

extension SeededRandom {
    /// The seed of this run: GMEM_SEED where set, else the clock's, printed so that a failure can be repeated.
    static let modelSeed: UInt64 = {
        if let text = environment("GMEM_SEED"), let seed = UInt64(text) { return seed }
        let seed = LinuxSystemCalls.shared.now()
        print("Model tests: GMEM_SEED=\(seed) repeats this run")
        return seed
    }()

    /// Read from /proc: Glibc's module and CGmem's disagree about `fd_set` in one file (CGmem says
    /// _GNU_SOURCE), so there is no `getenv` here.
    private static func environment(_ name: String) -> String? {
        let descriptor = unsafe LinuxSystemCalls.shared.open("/proc/self/environ", 0)
        guard descriptor >= 0 else { return nil }
        let file = OwnedDescriptor(taking: Int32(descriptor), from: LinuxSystemCalls.shared)
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        var length = 0
        while length < bytes.count {
            let result = unsafe bytes.withUnsafeMutableBytes { buffer in
                // SAFETY: the rest of the buffer.
                guard let base = buffer.baseAddress else { return 0 }
                return unsafe LinuxSystemCalls.shared.pread(
                    file.number, base + length, buffer.count - length, Int64(length))
            }
            if result <= 0 { break }
            length += result
        }
        for entry in bytes[..<length].split(separator: 0) {
            let text = String(decoding: entry, as: UTF8.self)
            if text.hasPrefix(name + "=") { return String(text.dropFirst(name.utf8.count + 1)) }
        }
        return nil
    }
}

/// What a ledger must answer, computed another way.
protocol PageModel: AnyObject {
    func set(_ range: PageRange, to state: Shareability)
    func state(ofPage page: Int) -> Shareability
    /// The first page in a state from `start` on, or `end`.
    func firstPage(in state: Shareability, from start: Int, to end: Int) -> Int
    func countShared(_ range: PageRange) -> Int
    /// 2 MiB and 1 GiB frames that hold both states, among those of a range that cuts none in two.
    func mixedFrames(_ range: PageRange) -> (mixed2M: Int, mixed1G: Int)
}

extension PageModel {
    func uniformState(of range: PageRange) -> Shareability? {
        if range.isEmpty { return nil }
        let first = state(ofPage: range.start)
        return firstPage(in: first.opposite, from: range.start, to: range.end) == range.end ? first : nil
    }

    func nextRun(notIn wanted: Shareability, within range: PageRange) -> PageRange? {
        let start = firstPage(in: wanted.opposite, from: range.start, to: range.end)
        if start == range.end { return nil }
        return PageRange(start: start, count: firstPage(in: wanted, from: start, to: range.end) - start)
    }
}

/// One byte a page, and everything else found by looking at all of them.
final class NaiveModel: PageModel {
    private var states: [UInt8]
    private let pageSize: Int

    init(pageCount: Int, pageSize: Int, initially: Shareability) {
        states = Array(repeating: initially.rawValue, count: pageCount)
        self.pageSize = pageSize
    }

    func set(_ range: PageRange, to state: Shareability) {
        unsafe states.withUnsafeMutableBytes { bytes in
            // SAFETY: no test asks past the end, and the slice checks it in a debug build.
            let slice = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range.start..<range.end])
            if let base = slice.baseAddress { unsafe _ = memset(base, Int32(state.rawValue), slice.count) }
        }
    }

    func state(ofPage page: Int) -> Shareability { states[page] == 0 ? .private : .shared }

    func firstPage(in state: Shareability, from start: Int, to end: Int) -> Int {
        unsafe states.withUnsafeBytes { bytes in
            // SAFETY: as in `set`.
            let slice = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            guard let base = slice.baseAddress,
                let found = unsafe memchr(base, Int32(state.rawValue), slice.count)
            else { return end }
            return unsafe start + (UnsafeRawPointer(found) - base)
        }
    }

    /// By runs, because a debug build takes 10 ns a step and `memchr` takes 64 pages at one.
    func countShared(_ range: PageRange) -> Int {
        let end = range.end
        var sum = 0
        var page = range.start
        while page < end {
            let start = firstPage(in: .shared, from: page, to: end)
            page = firstPage(in: .private, from: start, to: end)
            sum += page - start
        }
        return sum
    }

    func mixedFrames(_ range: PageRange) -> (mixed2M: Int, mixed1G: Int) {
        (countMixed(range, frame: (2 << 20) / pageSize), countMixed(range, frame: (1 << 30) / pageSize))
    }

    private func countMixed(_ range: PageRange, frame: Int) -> Int {
        var mixed = 0
        for start in stride(from: range.start, to: range.end, by: frame) {
            let count = min(frame, range.end - start)
            if uniformState(of: PageRange(start: start, count: count)) == nil { mixed += 1 }
        }
        return mixed
    }
}

/// The pages at which the state changes, in order: exact at any size, as long as there are few of them.
final class BorderModel: PageModel {
    private var borders: [Int] = []
    private let pageSize: Int
    private let initially: Shareability

    init(pageSize: Int, initially: Shareability) {
        self.pageSize = pageSize
        self.initially = initially
    }

    /// How many borders lie before or at a page.
    private func borders(upTo page: Int) -> Int {
        var low = 0
        var high = borders.count
        while low < high {
            let middle = (low + high) / 2
            if borders[middle] <= page { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func state(after count: Int) -> Shareability { count % 2 == 0 ? initially : initially.opposite }

    func set(_ range: PageRange, to state: Shareability) {
        if range.isEmpty { return }
        let first = borders(upTo: range.start - 1)
        let last = borders(upTo: range.end)
        var new: [Int] = []
        if self.state(after: first) != state { new.append(range.start) }
        if self.state(after: last) != state { new.append(range.end) }
        borders.replaceSubrange(first..<last, with: new)
    }

    func state(ofPage page: Int) -> Shareability { state(after: borders(upTo: page)) }

    func firstPage(in state: Shareability, from start: Int, to end: Int) -> Int {
        if start == end { return end }
        let count = borders(upTo: start)
        if self.state(after: count) == state { return start }
        return count < borders.count ? min(borders[count], end) : end
    }

    func countShared(_ range: PageRange) -> Int {
        var sum = 0
        var page = range.start
        while page < range.end {
            let count = borders(upTo: page)
            let stop = count < borders.count ? min(borders[count], range.end) : range.end
            if state(after: count) == .shared { sum += stop - page }
            page = stop
        }
        return sum
    }

    /// A frame is mixed when a border lies inside it, not merely at its start or at the end of the file.
    func mixedFrames(_ range: PageRange) -> (mixed2M: Int, mixed1G: Int) {
        let frame2M = (2 << 20) / pageSize
        let frame1G = (1 << 30) / pageSize
        var mixed = (mixed2M: 0, mixed1G: 0)
        var last = (mixed2M: -1, mixed1G: -1)
        var index = borders(upTo: range.start)
        while index < borders.count, borders[index] < range.end {
            let border = borders[index]
            if border % frame2M != 0, border / frame2M != last.mixed2M {
                mixed.mixed2M += 1
                last.mixed2M = border / frame2M
            }
            if border % frame1G != 0, border / frame1G != last.mixed1G {
                mixed.mixed1G += 1
                last.mixed1G = border / frame1G
            }
            index += 1
        }
        return mixed
    }
}
