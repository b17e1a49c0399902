import CBaseline
import CGmem

/// Population of a real guest_memfd, in GB/s: plainly, by the best C, by the library. They take turns within
/// each round, because the machine changes from minute to minute; the ratios are of neighbours in a round.
func populationBenchmarks(_ report: Reporter, ours: PopulateOurs? = nil) {
    let benchmark = PopulationBenchmark(report: report, ours: ours)
    for level in PopulationCase.Level.allCases {
        for source in PopulationCase.Source.allCases { benchmark.runGroup(source, level) }
    }
    benchmark.copyIntoFaulted()
}

private final class PopulationBenchmark {
    private let report: Reporter
    private let ours: PopulateOurs?
    private let size: Int
    private let rounds: Int
    /// Made when the first group is measured: it takes seconds and three times the size.
    private var sources: PopulationSources?
    /// Why there is nothing to measure was said already.
    private var isImpossible = false
    /// Whether the contenders of this round look at what they wrote.
    private var verify = false

    init(report: Reporter, ours: PopulateOurs?) {
        self.report = report
        self.ours = ours
        size = report.quick ? 128 << 20 : 1 << 30
        rounds = report.quick ? 3 : 7
    }

    // MARK: - Groups

    /// One that takes its turn in each round.
    private struct Contender {
        let row: String
        /// Nanoseconds. Nil when it cannot be done here.
        let time: (PopulationSources) -> UInt64?
        var samples: [UInt64] = []
    }

    /// How many times faster one row is than another.
    private struct Ratio {
        let name: String
        let row: String
        let than: String
        var target: Target?
    }

    /// One source at one level, on one thread and on two, against the same plain run.
    func runGroup(_ source: PopulationCase.Source, _ level: PopulationCase.Level) {
        let single = PopulationCase(source: source, level: level, threads: 1)
        let plain = "\(single.group): plain"
        var contenders = [Contender(row: plain) { [self] in baseline(single, .plain, $0) }]
        if source == .file {
            contenders.append(
                Contender(row: "\(single.group): plain pread") { [self] in baseline(single, .plainRead, $0) })
        }
        var ratios: [Ratio] = []
        for which in [single, PopulationCase(source: source, level: level, threads: 2)] {
            let name = which.name
            contenders.append(Contender(row: "\(name): best C") { [self] in baseline(which, .best, $0) })
            ratios.append(Ratio(name: "\(name): plain/best C, times faster", row: "\(name): best C", than: plain))
            if level == .process {
                contenders.append(
                    Contender(row: "\(name): C, second view") { [self] in baseline(which, .secondView, $0) })
            }
            guard let ours else { continue }
            contenders.append(Contender(row: "\(name): ours") { [self] in ours(which, $0, verify) })
            ratios += [
                Ratio(
                    name: "\(name): ours/best C, speed", row: "\(name): ours", than: "\(name): best C",
                    target: .atLeast(0.9)),
                Ratio(
                    name: "\(name): plain/ours, times faster", row: "\(name): ours", than: plain,
                    target: which.aimOverPlain.map { .atLeast($0) }),
            ]
        }
        let names = contenders.map(\.row) + ratios.map(\.name)
        if report.isListing {
            for name in names { report.record(name, unit: "", samples: []) }
            return
        }
        // Contenders are nothing without their neighbours: all of them run when one row is wanted.
        guard names.contains(where: report.wants), let sources = prepare() else { return }
        measure(&contenders, sources)
        record(contenders, ratios)
    }

    /// The floor that no population can go below.
    func copyIntoFaulted() {
        let name = "population: memcpy into the faulted mapping, 1 thread"
        if report.isListing { return report.record(name, unit: "", samples: []) }
        guard report.wants(name), let sources = prepare() else { return }
        var raw = unsafe sources.raw
        var target = unsafe cbaseline_target()
        guard unsafe cbaseline_target_create(&target, size, 0) == 0 else { return }
        defer { unsafe cbaseline_target_destroy(&target) }
        unsafe cbaseline_fault_in(&target)
        var samples: [Double] = []
        for _ in 0..<rounds {
            let start = cgmem_monotonic_now()
            unsafe cbaseline_copy(&target, &raw)
            samples.append(speed(cgmem_monotonic_now() - start))
        }
        report.record(name, unit: "GB/s", samples: samples)
    }

    // MARK: - Rounds

    private func measure(_ contenders: inout [Contender], _ sources: PopulationSources) {
        // Round 0 checks what everybody wrote, and its times are not counted.
        for round in 0...rounds {
            verify = round == 0
            for turn in contenders.indices {
                // Another one begins in each round, so that nobody always comes at the same moment.
                let index = (turn + round) % contenders.count
                cbaseline_warm(size)
                let nanoseconds = contenders[index].time(sources)
                if round > 0, let nanoseconds { contenders[index].samples.append(nanoseconds) }
            }
        }
    }

    /// The sequences of the C side.
    private enum Sequence {
        case plain
        case plainRead
        case best
        /// Not the same work, hence no ratio to it: it goes around the guards.
        case secondView
    }

    private func baseline(
        _ which: PopulationCase, _ sequence: Sequence, _ sources: PopulationSources
    ) -> UInt64? {
        var raw = unsafe sources.raw
        var target = unsafe cbaseline_target()
        let guarded: Int32 = which.level == .process ? 1 : 0
        guard unsafe cbaseline_target_create(&target, size, guarded) == 0 else { return nil }
        defer { unsafe cbaseline_target_destroy(&target) }
        let threads = Int32(which.threads)
        let start = cgmem_monotonic_now()
        switch sequence {
        case .plain: unsafe cbaseline_plain(&target, &raw, which.source.kind)
        case .plainRead: unsafe cbaseline_plain_read(&target, &raw)
        case .best: unsafe cbaseline_best(&target, &raw, which.source.kind, threads)
        case .secondView: unsafe cbaseline_best_unguarded_view(&target, &raw, which.source.kind, threads)
        }
        let nanoseconds = cgmem_monotonic_now() - start
        if verify {
            let kept = unsafe guarded == 0 || cbaseline_is_guarded(target.host, size) == 1
            let right = unsafe sources.verify(target.fd, which.source)
            precondition(kept && right, "\(which.name): the C baseline left wrong contents or no guards")
        }
        return nanoseconds
    }

    // MARK: - Sources and figures

    /// What to populate from. Nil where there is no room for it, or nothing to populate; says so once.
    private func prepare() -> PopulationSources? {
        if let sources { return sources }
        if isImpossible { return nil }
        isImpossible = true
        var target = unsafe cbaseline_target()
        let answer = unsafe cbaseline_target_create(&target, size, 1)
        guard answer == 0 else {
            report.note("population: no mappable guest_memfd with guard pages here: errno \(-answer)")
            return nil
        }
        unsafe cbaseline_target_destroy(&target)
        do throws(PopulationSources.Failure) {
            sources = try PopulationSources(size: size)
        } catch {
            let room = "\(size >> 20) MiB, twice in memory and once in /tmp"
            report.note("population: no room for \(room): errno \(error.errno)")
            return nil
        }
        report.note("population of \(size >> 20) MiB; a group's rows take turns in each of \(rounds) rounds")
        return sources
    }

    /// Bytes of the destination, zero pages included, in a nanosecond: GB/s.
    private func speed(_ nanoseconds: UInt64) -> Double { Double(size) / Double(nanoseconds) }

    private func record(_ contenders: [Contender], _ ratios: [Ratio]) {
        var samples: [String: [UInt64]] = [:]
        for contender in contenders {
            samples[contender.row] = contender.samples
            report.record(contender.row, unit: "GB/s", samples: contender.samples.map(speed))
        }
        for ratio in ratios {
            guard let row = samples[ratio.row], let than = samples[ratio.than], row.count == than.count
            else { continue }
            let values = zip(row, than).map { Double($1) / Double($0) }
            report.record(ratio.name, unit: "ratio", samples: values, target: ratio.target)
        }
    }
}
