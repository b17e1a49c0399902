import CGmem

/// How a plan is carried out.
public struct PopulationOptions: Sendable {
    /// Threads that write, the calling one among them.
    public var threads = 1
    /// Compare what was written with its source while it is still shared.
    public var verifies = false
    /// What becomes of whole pages of zeros: in memory, in a file's holes, in `addZeros`.
    public var zeros = Zeros.unallocated
    /// For the conversions before and after.
    public var policy = ConversionPolicy.vmm
    /// Told how many bytes of the plan are in place, on the calling thread; `false` stops.
    public var progress: (@Sendable (_ done: UInt64, _ total: UInt64) -> Bool)?

    /// What becomes of whole pages of zeros.
    public enum Zeros: Sendable {
        /// Holes are punched (`fallocate(PUNCH_HOLE)`): the pages read as zeros whatever was there, and have
        /// no memory until they are touched. Takes back what `preallocate` gave them.
        case unallocated
        /// Zeros are written.
        case written
    }

    public init() {}
}

/// What carrying out a plan will do, said beforehand.
public struct PopulationPreview: Sendable {
    /// Bytes that will be written. Whole pages of zeros in memory among them are found on the way.
    public var bytesToWrite: UInt64
    /// Whole pages of zeros that are known beforehand, and stay or become unallocated: never shared.
    public var runsToDiscard: [GuestRange]
    /// Private pages that will be shared while they are written, in merged runs.
    public var runsToShare: [GuestRange]
    /// Frames of the files that are uniform now and will hold both states meanwhile: what a kernel with
    /// huge pages has to split. Guest-physical addresses of their first bytes.
    public var splitFrames2M: [UInt64]
    /// The same for 1 GiB frames.
    public var splitFrames1G: [UInt64]
    /// Conversion calls, both ways.
    public var conversionCalls: Int
}

extension GuestMemory {
    /// Puts a plan's contents into the guest's memory, before the guest runs.
    ///
    /// The plan is checked whole first, and nothing has changed if that throws. Then the private pages
    /// among its pages are shared, in merged runs, and leased; contents are written in place, files read
    /// straight into the mapping; and the pages are made private again (on level `process` 8 MiB at a
    /// time). That also happens when a write fails or is cancelled: then contents are partly written, and
    /// the state of every page is as before.
    ///
    /// Whole pages of zeros are not written but punched out, whatever was there (`PopulationOptions.zeros`);
    /// holes of sparse files are not even shared.
    ///
    /// When it throws after that check, `outcome` says which pages that were private are still shared:
    /// `.failed` (none), `.partial` or, when nothing may be converted any more, `.poisoned`.
    ///
    /// Throws `overlap`, `notGuestMemory`, `badSize` (an empty item), `badDescriptor`, `shortSource` (a file
    /// that is shorter than said, or shrinks), `held`, `cancelled`, `verifyFailed`; `unsupported` for SNP
    /// and TDX, where a payload goes in through a launch command.
    public func populate(
        _ plan: PopulationPlan, _ options: PopulationOptions = PopulationOptions()
    ) throws(GuestMemoryError) {
        let job = try prepare(plan, options.zeros)
        do throws(GuestMemoryError) {
            for hole in job.holes { try discard(hole, policy: options.policy) }
            // The plan owns what the pieces point to.
            try withExtendedLifetime(plan) { () throws(GuestMemoryError) in
                if job.convertsByWindow {
                    try write(job, options)
                } else {
                    try whileShared(job.privateRuns, options) { () throws(GuestMemoryError) in
                        try write(job, options)
                    }
                }
            }
        } catch {
            throw withWhatIsLeft(of: job, error)
        }
    }

    /// The first error of a population, with the state of things after all of it: which pages that were
    /// private are still shared, by the ledger.
    private func withWhatIsLeft(of job: PopulationJob, _ error: GuestMemoryError) -> GuestMemoryError {
        let left = job.privateRuns.flatMap { runs(in: $0, .shared) }
        let isPoisoned = claims.lock.withLock { shared.value.state == .poisoned }
        var error = error
        error.outcome = isPoisoned ? .poisoned(left) : left.isEmpty ? .failed : .partial(left)
        if !left.isEmpty { error.message += ". The runs in the outcome were private and are still shared" }
        return error
    }

    /// What `populate` would do now. Checks the plan as `populate` does.
    public func preview(
        _ plan: PopulationPlan, _ options: PopulationOptions = PopulationOptions()
    ) throws(GuestMemoryError) -> PopulationPreview {
        let job = try prepare(plan, options.zeros)
        let converted = job.convertsByWindow ? job.windows.flatMap({ $0.privateRuns }) : job.privateRuns
        return PopulationPreview(
            bytesToWrite: job.bytesToWrite, runsToDiscard: job.holes, runsToShare: job.privateRuns,
            splitFrames2M: splitFrames(job.privateRuns, 1 << 21),
            splitFrames1G: splitFrames(job.privateRuns, 1 << 30),
            conversionCalls: 2 * converted.reduce(0) { $0 + pieces(of: $1).count })
    }

    /// Only the frames at a run's two ends can be cut by it.
    private func splitFrames(_ runs: [GuestRange], _ frame: UInt64) -> [UInt64] {
        var frames: [UInt64] = []
        for run in runs {
            for piece in pieces(of: run) {
                let region = regions[piece.region]
                let pages = region.pages(piece.start, piece.end)
                let perFrame = Int(frame) >> region.converter.pageShift
                for page in [pages.start, pages.end - 1] {
                    let first = page / perFrame * perFrame
                    let count = min(perFrame, region.ledger.pageCount - first)
                    let whole = PageRange(start: first, count: count)
                    if pages.start <= first && pages.end >= whole.end { continue }
                    // The frame is the file's, and may begin before the region does.
                    let before = region.bytes(first)
                    let address =
                        before < region.fileOffset
                        ? region.range.address : region.range.address + (before - region.fileOffset)
                    if frames.last != address,
                        claims.lock.withLock({ region.ledger.uniformState(of: whole) }) != nil
                    {
                        frames.append(address)
                    }
                }
            }
        }
        return frames
    }

    // MARK: Writing

    private func write(_ job: PopulationJob, _ options: PopulationOptions) throws(GuestMemoryError) {
        let writer = SegmentWriter(
            system: system, punchesZeros: options.zeros == .unallocated, verifies: options.verifies)
        let written = ProgressCounter()
        let team = WorkerTeam(count: job.windows.count) { (index) throws(GuestMemoryError) in
            let window = job.windows[index]
            let runs = job.convertsByWindow ? window.privateRuns : []
            try self.whileShared(runs, options) { () throws(GuestMemoryError) in
                let lease = try self.lease(window.range, label: "populate", policy: options.policy)
                defer { lease.release() }
                for piece in window.pieces {
                    try writer.write(piece)
                    written.add(piece.segment.range.size)
                }
            }
        }
        let total = job.bytesToWrite
        try team.run(threads: options.threads) { () throws(GuestMemoryError) in
            let soFar = written.value
            // Too late to stop when all is done.
            if let progress = options.progress, !progress(soFar, total), soFar < total {
                throw GuestMemoryError(
                    .cancelled, "populate", .canceled, "progress said to stop after \(soFar) of \(total) bytes")
            }
        }
    }

    /// Shares private runs, does the work, and makes them private again, whether the work threw or not.
    private func whileShared(
        _ runs: [GuestRange], _ options: PopulationOptions, _ work: () throws(GuestMemoryError) -> Void
    ) throws(GuestMemoryError) {
        var failure: GuestMemoryError?
        do throws(GuestMemoryError) {
            for run in runs { try convert(run, to: .shared, policy: options.policy) }
            try work()
        } catch {
            failure = error
        }
        // Cancelling stops the writing, not the cleaning up; and one run that cannot be made private keeps no
        // other shared. Those that never were shared cost nothing.
        var policy = options.policy
        policy.isCancelled = nil
        for run in runs {
            do throws(GuestMemoryError) {
                try convert(run, to: .private, policy: policy)
            } catch {
                if failure == nil { failure = error }
            }
        }
        if let failure { throw failure }
    }
}
