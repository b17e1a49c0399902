import CBaseline

/// One way to populate, which the C baseline and the library both do.
struct PopulationCase {
    enum Source: String, CaseIterable {
        case memory
        /// Page-cached, read straight into place.
        case file
        /// An image in memory, three quarters of its pages zero and left unallocated.
        case sparse

        var kind: cbaseline_kind {
            switch self {
            case .memory: CBASELINE_MEMORY
            case .file: CBASELINE_FILE
            case .sparse: CBASELINE_SPARSE
            }
        }
    }

    enum Level: String, CaseIterable {
        /// Memory that is shared when it is populated and stays so: nobody is kept out.
        case noGuards = "no guards"
        /// Every page is private and guarded before, and again after.
        case process
    }

    var source: Source
    var level: Level
    var threads: Int

    /// `population: memory, no guards, 1 thread`
    var name: String { "\(group), \(threads) thread\(threads == 1 ? "" : "s")" }
    /// The name without the threads: what is measured together, round by round.
    var group: String { "population: \(source.rawValue), \(level.rawValue)" }

    /// How many times faster than the plain way it is to be. Guards have no such aim.
    var aimOverPlain: Double? {
        switch (level, source, threads) {
        case (.process, _, _): nil
        case (.noGuards, .sparse, 1): 3
        case (.noGuards, .sparse, _): 5
        case (.noGuards, _, 1): 1.2
        case (.noGuards, _, _): 2.2
        }
    }
}

/// The library's side of a case: makes memory of `sources.size` bytes, populates it from `sources`, and returns
/// the nanoseconds that the population alone took (not creation, not teardown). Nil: not this case.
///
/// The memory is gone when it returns. With `verify` it checks, outside the time it reports, that contents and
/// guards are as they should be: `sources.verify` and `cbaseline_is_guarded` help.
typealias PopulateOurs = (_ which: PopulationCase, _ sources: PopulationSources, _ verify: Bool) -> UInt64?
