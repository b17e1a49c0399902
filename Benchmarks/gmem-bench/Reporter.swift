import CBaseline
import CGmem
import Glibc

/// Runs the measurements that were asked for and prints one row each, as soon as it has it: a text table,
/// or with `--json` one object a line.
///
/// A row has a name, `group: what, on what`, that does not change from release to release. Its figures are the
/// minimum and the median of the samples; a target is held against the median.
final class Reporter {
    static let usage = """
        usage: gmem-bench [--json] [--filter SUBSTRING]... [--list] [--quick] [--check]
          --json     one object a line: name, unit, min, median; and at_most or at_least and met, where there is
                     a target; notes are objects with the key "note"
          --filter   only rows whose name contains SUBSTRING, whatever its case; several are alternatives
          --list     the names of the rows, and nothing is measured
          --quick    fewer rounds and smaller memories: to see that everything runs, not to quote
          --check    exit with 1 when a row misses its target
        """

    let json: Bool
    /// Names are wanted, no figures. Whoever prepares at length can skip that.
    let isListing: Bool
    /// Figures are wanted soon rather than good.
    let quick: Bool
    private let check: Bool
    private let filters: [String]
    private var missed: [String] = []
    private var headerIsPrinted = false

    /// `arguments` without the program's name. Nil when they make no sense.
    init?(arguments: [String]) {
        var json = false
        var list = false
        var quick = false
        var check = false
        var filters: [String] = []
        var rest = arguments.makeIterator()
        while let argument = rest.next() {
            switch argument {
            case "--json": json = true
            case "--list": list = true
            case "--quick": quick = true
            case "--check": check = true
            case "--filter":
                guard let text = rest.next() else { return nil }
                filters.append(text.lowercased())
            default: return nil
            }
        }
        self.json = json
        self.isListing = list
        self.quick = quick
        self.check = check
        self.filters = filters
    }

    /// Whether a row of this name is asked for, to be measured or to be listed.
    func isSelected(_ name: String) -> Bool {
        let lower = name.lowercased()
        return filters.isEmpty || filters.contains { contains(lower, $0) }
    }

    /// Whether any row of this name is to be measured: false for all of them with `--list`.
    func wants(_ name: String) -> Bool { !isListing && isSelected(name) }

    /// Nanoseconds per operation. `body` does `operations` of them; it runs once to warm up and `rounds` times
    /// to be measured.
    func measure(
        _ name: String, operations: Int, rounds: Int = 9, target: Target? = nil, _ body: () -> Void
    ) {
        guard wants(name) else { return record(name, unit: "ns", samples: [], target: target) }
        body()
        var samples: [Double] = []
        for _ in 0..<(quick ? min(rounds, 3) : rounds) {
            let start = cgmem_monotonic_now()
            body()
            samples.append(Double(cgmem_monotonic_now() - start) / Double(operations))
        }
        record(name, unit: "ns", samples: samples, target: target)
    }

    /// One way of doing some work: the name of its row, its target, and `work`, which does all of a round's
    /// operations.
    struct Contender {
        let name: String
        var target: Target?
        let work: () -> Void

        init(_ name: String, target: Target? = nil, _ work: @escaping () -> Void) {
            self.name = name
            self.target = target
            self.work = work
        }
    }

    /// Nanoseconds per operation of the same work done in several ways, which take turns in every round: what
    /// else the machine does meanwhile happens to all of them. A row each; who is not asked for, does not run.
    func measureInTurns(operations: Int, rounds: Int = 9, _ contenders: [Contender]) {
        let wanted = contenders.filter { wants($0.name) }
        var samples = [[Double]](repeating: [], count: wanted.count)
        for contender in wanted { contender.work() }
        for _ in 0..<(quick ? min(rounds, 3) : rounds) {
            for (index, contender) in wanted.enumerated() {
                let start = cgmem_monotonic_now()
                contender.work()
                samples[index].append(Double(cgmem_monotonic_now() - start) / Double(operations))
            }
        }
        for contender in contenders {
            let index = wanted.firstIndex { $0.name == contender.name }
            record(
                contender.name, unit: "ns", samples: index.map { samples[$0] } ?? [], target: contender.target)
        }
    }

    /// Heap allocations per operation, of the whole process: nothing else may run meanwhile. `body` does
    /// `operations` of them, and runs once before it is counted, for what is made once and kept.
    func measureAllocations(
        _ name: String, operations: Int, target: Target? = nil, _ body: () -> Void
    ) {
        guard wants(name) else { return record(name, unit: "allocations", samples: [], target: target) }
        body()
        var samples: [Double] = []
        samples.reserveCapacity(3)
        for _ in 0..<3 {
            let before = cbaseline_malloc_count()
            body()
            samples.append(Double(cbaseline_malloc_count() - before) / Double(operations))
        }
        record(name, unit: "allocations", samples: samples, target: target)
    }

    /// A row whose samples were taken elsewhere. With `--list` the samples are not looked at.
    func record(_ name: String, unit: String, samples: [Double], target: Target? = nil) {
        guard isSelected(name) else { return }
        if isListing { return print(name) }
        guard !samples.isEmpty else { return }
        let samples = Samples(samples)
        let met = target?.isMet(by: samples.median)
        if met == false { missed.append(name) }
        if json {
            printObject(name, unit, samples, target, met)
        } else {
            printRow(name, unit, samples, target, met)
        }
    }

    /// Something to know about the rows that follow: what could not be measured, and why.
    func note(_ text: String) {
        if isListing { return }
        print(json ? "{\"note\":\(quoted(text))}" : "# \(text)")
        flush()
    }

    /// The exit code: 1 when `--check` was given and a target was missed.
    func finish() -> Int32 {
        guard check, !missed.isEmpty else { return 0 }
        note("\(missed.count) missed: \(missed.joined(separator: "; "))")
        return 1
    }

    // MARK: - Printing

    private func printObject(_ name: String, _ unit: String, _ samples: Samples, _ target: Target?, _ met: Bool?) {
        var fields = [
            "\"name\":\(quoted(name))", "\"unit\":\(quoted(unit))", "\"min\":\(decimal(samples.min, 3))",
            "\"median\":\(decimal(samples.median, 3))",
        ]
        switch target {
        case .atMost(let limit): fields.append("\"at_most\":\(decimal(limit, 3))")
        case .atLeast(let limit): fields.append("\"at_least\":\(decimal(limit, 3))")
        case nil: break
        }
        if let met { fields.append("\"met\":\(met)") }
        print("{\(fields.joined(separator: ","))}")
        flush()
    }

    private func printRow(_ name: String, _ unit: String, _ samples: Samples, _ target: Target?, _ met: Bool?) {
        if !headerIsPrinted {
            headerIsPrinted = true
            print(columns("", "unit", "min", "median", "target"))
        }
        var aim = ""
        switch target {
        case .atMost(let limit): aim = "<= \(short(limit))"
        case .atLeast(let limit): aim = ">= \(short(limit))"
        case nil: break
        }
        if let met { aim += met ? " met" : " MISSED" }
        print(columns(name, unit, short(samples.min), short(samples.median), aim))
        flush()
    }

    private func columns(_ name: String, _ unit: String, _ min: String, _ median: String, _ aim: String) -> String {
        let line = left(name, 70) + " " + left(unit, 11) + " " + right(min, 9) + " " + right(median, 9)
        return aim.isEmpty ? line : line + "  " + aim
    }

    private func left(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: Swift.max(0, width - text.count))
    }

    private func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: Swift.max(0, width - text.count)) + text
    }

    /// A row is there when it is there, though a pipe follows.
    private func flush() {
        // Nil stands for every stream.
        _ = fflush(nil)
    }

    private func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case "\n": result += "\\n"
            case _ where scalar.value < 0x20: result += " "
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    private func contains(_ text: String, _ part: String) -> Bool {
        let text = Array(text.utf8)
        let part = Array(part.utf8)
        guard part.count <= text.count else { return false }
        return (0...(text.count - part.count)).contains { text[$0..<($0 + part.count)].elementsEqual(part) }
    }
}
