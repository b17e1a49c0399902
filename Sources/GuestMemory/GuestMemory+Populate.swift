import CGmem

/// How a plan is carried out.
public struct PopulationOptions: Sendable {
    /// Threads that write, the calling one among them.
    public var threads = 1
    /// Compare everything with its source while it is still shared.
    public var verifies = false
    /// For the conversions before and after.
    public var policy = ConversionPolicy.vmm
    /// Told how many bytes of the plan are in place, on the calling thread; `false` stops.
    public var progress: (@Sendable (_ done: UInt64, _ total: UInt64) -> Bool)?

    public init() {}
}

/// What carrying out a plan will do, said beforehand.
public struct PopulationPreview: Sendable {
    /// Bytes that will be written; holes in files and zeros for pristine memory are not.
    public var bytesToWrite: UInt64
    /// Private pages that will be shared while they are written, in merged runs.
    public var runsToShare: [GuestRange]
    /// Frames of the files that are uniform now and will hold both states meanwhile: what a kernel with
    /// huge pages has to split. Guest-physical addresses of their first bytes.
    public var splitFrames2M: [UInt64]
    public var splitFrames1G: [UInt64]
    /// Conversion calls, both ways.
    public var conversionCalls: Int
}

extension GuestMemory {
    /// Puts a plan's contents into the guest's memory, before the guest runs.
    ///
    /// The plan is checked whole first, and nothing has changed if that throws. Then the private pages
    /// among its pages are shared, in merged runs, and leased; contents are written in place, files read
    /// straight into the mapping; and the pages are made private again. That also happens when a write
    /// fails or is cancelled: then contents are partly written, and the state of every page is as before.
    ///
    /// Zeros cost nothing where nobody can have written yet: holes of sparse files are not even shared, and
    /// whole pages of zeros in memory stay unallocated.
    ///
    /// Throws `overlap`, `notGuestMemory`, `badSize` (an empty item), `badDescriptor`, `shortSource` (a file
    /// that is shorter than said, or shrinks), `held`, `cancelled`, `verifyFailed`; `unsupported` for SNP
    /// and TDX, where a payload goes in through a launch command.
    public func populate(
        _ plan: PopulationPlan, _ options: PopulationOptions = PopulationOptions()
    ) throws(GuestMemoryError) {
        let job = try prepare(plan)
        if job.segments.isEmpty { return }
        for run in job.privateRuns {
            do throws(GuestMemoryError) {
                try convert(run, to: .shared, policy: options.policy)
            } catch {
                // Those before it go back; a run that fails goes back by itself.
                try makePrivate(job.privateRuns.prefix { $0 != run }, options, because: error)
                throw error
            }
        }
        var failure: GuestMemoryError?
        do throws(GuestMemoryError) {
            try write(job, plan, options)
        } catch {
            failure = error
        }
        try makePrivate(job.privateRuns[...], options, because: failure)
        if let failure { throw failure }
    }

    /// What `populate` would do now. Checks the plan as `populate` does.
    public func preview(_ plan: PopulationPlan) throws(GuestMemoryError) -> PopulationPreview {
        let job = try prepare(plan)
        return PopulationPreview(
            bytesToWrite: job.segments.reduce(0) { $0 + $1.range.size }, runsToShare: job.privateRuns,
            splitFrames2M: splitFrames(job.privateRuns, 1 << 21),
            splitFrames1G: splitFrames(job.privateRuns, 1 << 30),
            conversionCalls: 2 * job.privateRuns.reduce(0) { $0 + pieces(of: $1).count })
    }

    // MARK: Preparation

    private struct PopulationJob {
        /// What is written, in the plan's order.
        var segments: [PayloadSegment] = []
        /// The pages of the segments, merged, in order.
        var runs: [GuestRange] = []
        /// Those of them that are private now.
        var privateRuns: [GuestRange] = []
        var skipsZeroPages = true
    }

    private func prepare(_ plan: PopulationPlan) throws(GuestMemoryError) -> PopulationJob {
        if !virtualMachine.type.contentsSurviveConversion {
            throw GuestMemoryError(
                .unsupported, "populate", .notSupported,
                "contents do not survive a conversion in a \(virtualMachine.type) VM: load them by its launch "
                    + "command")
        }
        try check(plan)
        claims.lock.lock()
        defer { claims.lock.unlock() }
        try checkOpen("populate")
        var job = PopulationJob()
        job.skipsZeroPages = plan.items.allSatisfy { isPristine($0.range) }
        for item in plan.items { append(item, to: &job) }
        job.runs = mergedPages(job.segments)
        for run in job.runs { appendPrivate(run, to: &job.privateRuns) }
        return job
    }

    private func check(_ plan: PopulationPlan) throws(GuestMemoryError) {
        for item in plan.items {
            let range = item.range
            if range.size == 0 {
                throw GuestMemoryError(
                    .badSize, "populate", .invalid, range: range, "the item \(item.name) is empty")
            }
            let (last, overflow) = (range.end ?? .max).addingReportingOverflow(pageMask)
            if overflow {
                throw GuestMemoryError(
                    .badRange, "populate", .invalid, range: range, "the item \(item.name) wraps around")
            }
            let first = range.address & ~pageMask
            _ = try validate(GuestRange(address: first, size: last & ~pageMask - first), "populate")
            if case .file(let descriptor, let offset, _) = item.source {
                let size = try PayloadFile.size(of: descriptor, named: item.name, on: system)
                let (end, wraps) = offset.addingReportingOverflow(range.size)
                if wraps || end > size {
                    throw GuestMemoryError(
                        .shortSource, "fstat(\(item.name))", nil, range: range,
                        "the payload file has \(size) bytes, \(hex(range.size)) from \(hex(offset)) on were said")
                }
            }
        }
        let sorted = plan.items.sorted { $0.range.address < $1.range.address }
        for (item, next) in zip(sorted, sorted.dropFirst()) where next.range.address - item.range.address < item.range.size {
            throw GuestMemoryError(
                .overlap, "populate", .exists, range: next.range,
                "the item \(next.name) overlaps \(item.name) at \(item.range)")
        }
    }

    /// Under the lock.
    private func isPristine(_ range: GuestRange) -> Bool {
        var at = range.address
        while let piece = nextPiece(at, range.address + range.size) {
            if !regions[piece.region].isPristine { return false }
            at = piece.end
        }
        return true
    }

    private func append(_ item: PopulationPlan.Item, to job: inout PopulationJob) {
        switch item.source {
        case .memory(let address, _):
            job.segments.append(PayloadSegment(range: item.range, source: .memory(address)))
        case .file(let descriptor, let offset, _):
            for part in PayloadSegment.split(item.range, file: descriptor, offset: offset, on: system) {
                if !part.isHole {
                    job.segments.append(part.segment)
                } else if !job.skipsZeroPages {
                    job.segments.append(PayloadSegment(range: part.segment.range, source: .zeros))
                }
            }
        case .zeros:
            if !job.skipsZeroPages { job.segments.append(PayloadSegment(range: item.range, source: .zeros)) }
        }
    }

    /// The pages of the segments as merged runs, in order.
    private func mergedPages(_ segments: [PayloadSegment]) -> [GuestRange] {
        var runs: [GuestRange] = []
        for range in segments.map(\.range).sorted(by: { $0.address < $1.address }) {
            let start = range.address & ~pageMask
            let end = (range.address + range.size + pageMask) & ~pageMask
            if let last = runs.last, last.address + last.size >= start {
                runs[runs.count - 1].size = max(last.size, end - last.address)
            } else {
                runs.append(GuestRange(start..<end))
            }
        }
        return runs
    }

    /// Under the lock.
    private func appendPrivate(_ run: GuestRange, to runs: inout [GuestRange]) {
        for piece in pieces(of: run) {
            let region = regions[piece.region]
            var rest = region.pages(piece.start, piece.end)
            let end = rest.end
            while let next = region.ledger.nextRun(notIn: .shared, within: rest) {
                runs.append(region.guestRange(next))
                rest = PageRange(start: next.end, count: end - next.end)
                if rest.isEmpty { break }
            }
        }
    }

    private func pieces(of range: GuestRange) -> [(region: Int, start: UInt64, end: UInt64)] {
        var result: [(region: Int, start: UInt64, end: UInt64)] = []
        var at = range.address
        while let piece = nextPiece(at, range.address + range.size) {
            result.append(piece)
            at = piece.end
        }
        return result
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
                    let address = region.guestRange(whole).address
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

    private func write(
        _ job: PopulationJob, _ plan: PopulationPlan, _ options: PopulationOptions
    ) throws(GuestMemoryError) {
        var leases: [SharedLease] = []
        for run in job.runs { leases.append(try lease(run, label: "populate", policy: options.policy)) }
        defer { for lease in leases { lease.release() } }
        let pieces = cut(job.segments)
        let writer = SegmentWriter(
            system: system, skipsZeroPages: job.skipsZeroPages, verifies: options.verifies)
        let total = job.segments.reduce(0) { $0 + $1.range.size }
        let team = WorkerTeam(count: pieces.count) { (index) throws(GuestMemoryError) in
            try writer.write(pieces[index])
        }
        // The plan owns what the pieces point to.
        try withExtendedLifetime(plan) { () throws(GuestMemoryError) in
            try team.run(threads: options.threads) { (done) throws(GuestMemoryError) in
                let bytes = min(total, done == pieces.count ? total : UInt64(done) * SegmentWriter.pieceSize)
                if let progress = options.progress, !progress(bytes, total) {
                    throw GuestMemoryError(
                        .cancelled, "populate", .canceled, "stopped after \(bytes) of \(total) bytes")
                }
            }
        }
    }

    /// The segments cut at every 8 MiB and at region borders.
    private func cut(_ segments: [PayloadSegment]) -> [SegmentWriter.Piece] {
        var result: [SegmentWriter.Piece] = []
        for segment in segments {
            for piece in pieces(of: segment.range) {
                let region = regions[piece.region]
                var at = piece.start
                while at < piece.end {
                    let end = min(piece.end, (at / SegmentWriter.pieceSize + 1) * SegmentWriter.pieceSize)
                    result.append(
                        .init(
                            segment: segment.part(at - segment.range.address, end - at),
                            host: region.hostAddress(at), file: region.converter.descriptor,
                            fileOffset: at - region.range.address + region.fileOffset))
                    at = end
                }
            }
        }
        return result
    }

    private func makePrivate(
        _ runs: ArraySlice<GuestRange>, _ options: PopulationOptions, because first: GuestMemoryError?
    ) throws(GuestMemoryError) {
        // Cancelling stops the writing, not the cleaning up.
        var policy = options.policy
        policy.isCancelled = nil
        for run in runs {
            do throws(GuestMemoryError) {
                try convert(run, to: .private, policy: policy)
            } catch {
                var failure = error
                failure.message += ". The payload"
                failure.message += first.map { " failed (\($0.message)), and its" } ?? " is in place, but its"
                failure.message += " pages from here on are still shared"
                throw failure
            }
        }
    }
}
