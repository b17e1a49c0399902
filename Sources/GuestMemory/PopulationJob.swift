/// A plan that was checked, and what carrying it out takes.
struct PopulationJob {
    /// A stretch of pages that one thread writes at a time, and everything that goes there. Windows share
    /// no page, so what one does to its pages is nobody else's business.
    struct Window {
        var range: GuestRange
        var pieces: [SegmentWriter.Piece] = []
        /// Those of its pages that are private, in merged runs.
        var privateRuns: [GuestRange] = []
    }

    /// What is written, in the plan's order.
    var segments: [PayloadSegment] = []
    /// Whole pages that become holes.
    var holes: [GuestRange] = []
    /// The pages of the segments, cut where the address is a multiple of `SegmentWriter.pieceSize`.
    var windows: [Window] = []
    /// The private ones of all these pages, in merged runs.
    var privateRuns: [GuestRange] = []
    /// Whether each window is shared and made private by itself. Guards are cheapest so: threads share the
    /// work, and a guard is set on what the cache still knows. A kernel is asked once per run instead:
    /// where it has huge folios, each time it would split and merge them.
    var convertsByWindow = false

    var bytesToWrite: UInt64 { segments.reduce(0) { $0 + $1.range.size } }
}

extension GuestMemory {
    /// Checks a plan whole, and lays out the work.
    func prepare(
        _ plan: PopulationPlan, _ zeros: PopulationOptions.Zeros
    ) throws(GuestMemoryError) -> PopulationJob {
        if !virtualMachine.type.contentsSurviveConversion {
            throw GuestMemoryError(
                .unsupported, "populate", .notSupported,
                "contents do not survive a conversion in a \(virtualMachine.type) VM: load them by its launch "
                    + "command")
        }
        if isForked { throw unusable("populate") }
        try check(plan)
        // Asking files where their holes are may take a disk's time: before the lock.
        var job = PopulationJob()
        for part in plan.items.flatMap(split) {
            if case .zeros = part.source, zeros == .unallocated {
                separate(part, &job)
            } else {
                job.segments.append(part)
            }
        }
        claims.lock.lock()
        defer { claims.lock.unlock() }
        try checkOpen("populate")
        job.convertsByWindow = method == .guardPages
        for run in mergedPages(job.segments) {
            appendPrivate(run, to: &job.privateRuns)
            appendWindows(run, to: &job)
        }
        distribute(&job)
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
        for (item, next) in zip(sorted, sorted.dropFirst())
        where next.range.address - item.range.address < item.range.size {
            throw GuestMemoryError(
                .overlap, "populate", .exists, range: next.range,
                "the item \(next.name) overlaps \(item.name) at \(item.range)")
        }
    }

    /// Zeros as holes for the pages they fill, and bytes to write at the two ends.
    private func separate(_ zeros: PayloadSegment, _ job: inout PopulationJob) {
        let range = zeros.range
        let end = range.address + range.size
        let first = (range.address + pageMask) & ~pageMask
        let last = end & ~pageMask
        if first >= last {
            job.segments.append(zeros)
            return
        }
        job.holes.append(GuestRange(first..<last))
        if first > range.address { job.segments.append(zeros.part(0, first - range.address)) }
        if end > last { job.segments.append(zeros.part(last - range.address, end - last)) }
    }

    /// An item as what is written in one way each.
    private func split(_ item: PopulationPlan.Item) -> [PayloadSegment] {
        switch item.source {
        case .memory(let address, _): [PayloadSegment(range: item.range, source: .memory(address))]
        case .zeros: [PayloadSegment(range: item.range, source: .zeros)]
        case .file(let descriptor, let offset, _):
            PayloadSegment.split(item.range, file: descriptor, offset: offset, on: system)
        }
    }

    /// The pages of the segments as merged runs, in order.
    private func mergedPages(_ segments: [PayloadSegment]) -> [GuestRange] {
        var runs: [GuestRange] = []
        for range in segments.map({ $0.range }).sorted(by: { $0.address < $1.address }) {
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

    func pieces(of range: GuestRange) -> [(region: Int, start: UInt64, end: UInt64)] {
        var result: [(region: Int, start: UInt64, end: UInt64)] = []
        var at = range.address
        while let piece = nextPiece(at, range.address + range.size) {
            result.append(piece)
            at = piece.end
        }
        return result
    }

    /// Under the lock.
    private func appendWindows(_ run: GuestRange, to job: inout PopulationJob) {
        var at = run.address
        let end = run.address + run.size
        while at < end {
            let next = min(end, (at / SegmentWriter.pieceSize + 1) * SegmentWriter.pieceSize)
            var window = PopulationJob.Window(range: GuestRange(at..<next))
            appendPrivate(window.range, to: &window.privateRuns)
            job.windows.append(window)
            at = next
        }
    }

    /// Gives each window its parts of the segments.
    private func distribute(_ job: inout PopulationJob) {
        for segment in job.segments {
            let end = segment.range.address + segment.range.size
            var at = segment.range.address
            var index = window(holding: at, in: job.windows)
            while at < end {
                let window = job.windows[index].range
                for piece in pieces(of: GuestRange(at..<min(end, window.address + window.size))) {
                    let region = regions[piece.region]
                    job.windows[index].pieces.append(
                        .init(
                            segment: segment.part(piece.start - segment.range.address, piece.end - piece.start),
                            host: region.hostAddress(piece.start), file: region.converter.descriptor,
                            fileOffset: piece.start - region.range.address + region.fileOffset))
                }
                at = window.address + window.size
                index += 1
            }
        }
    }

    /// The window that holds an address of a segment: windows are in order and hold all of them.
    private func window(holding address: UInt64, in windows: [PopulationJob.Window]) -> Int {
        var low = 0
        var high = windows.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if windows[middle].range.address <= address { low = middle } else { high = middle }
        }
        return low
    }
}
