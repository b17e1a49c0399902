import CGmem

extension GuestMemory {
    /// Converts every page of a range to shared or private.
    ///
    /// Pages that are there already cost nothing: a repeated request makes no system call. The pages that
    /// differ are converted run by run, each run whole or not at all, on every region and file in the range.
    /// Conversions of overlapping ranges queue; to private, leases and copies under way are waited for.
    ///
    /// Returns only when every page is in the wanted state: `.converted`, or `.unchanged`. Whatever else
    /// happens is thrown, with the exact state of things in the error's `outcome`: `.failed` (nothing
    /// changed), `.partial`, `.poisoned`; nil when the request itself was invalid.
    ///
    /// - Parameters:
    ///   - range: bytes, page-aligned, not empty, all of it guest memory (see `ConversionPolicy.holes`).
    ///   - policy: how long to try, whom to ask; `.vcpu` on a vCPU's thread.
    @discardableResult
    public func convert(
        _ range: GuestRange, to wanted: Shareability, policy: ConversionPolicy = .vmm
    ) throws(GuestMemoryError) -> ConversionOutcome {
        let end = try validate(range, "convert", holes: policy.holes)
        var request = ConversionRequest(range, end: end, to: wanted, policy: policy, on: system)
        claims.lock.lock()
        do throws(GuestMemoryError) {
            try checkOpen("convert")
            try waitForConversions(&request)
        } catch {
            claims.lock.unlock()
            throw error
        }
        guard var next = nextRun(&request) else {
            counters.unchanged += 1
            claims.lock.unlock()
            return .unchanged
        }
        request.claim = claims.add(
            wanted == .private ? .toPrivate : .toShared, range.address, end, thread: request.thread)
        if wanted == .private, !claims.isAlone { try waitForAccesses(&request) }
        claims.lock.unlock()

        while true {
            let region = regions[next.region]
            do throws(RetryLoop.Failure) {
                try request.loop.convert(next.run, to: wanted, by: region.file.converter) { page in
                    place(of: page, in: region)
                }
            } catch {
                try recover(&request, from: error, at: next)
                // Converted around: what could be converted is, and is in the journal.
                claims.lock.lock()
                guard let after = nextRun(&request) else { break }
                claims.lock.unlock()
                next = after
                continue
            }
            claims.lock.lock()
            commit(&request, next)
            guard let after = nextRun(&request) else { break }
            claims.lock.unlock()
            next = after
        }
        return try finish(&request)
    }

    // MARK: The steps, in order

    /// The next run that differs from what is wanted. Under the lock.
    @inline(__always)
    private func nextRun(_ request: inout ConversionRequest) -> RunJournal.Entry? {
        while let piece = nextPiece(request.cursor, request.end) {
            let region = regions[piece.region]
            let pages = region.pages(piece.start, piece.end)
            if let run = region.file.ledger.nextRun(notIn: request.wanted, within: pages) {
                request.cursor = piece.start + UInt64(run.end - pages.start) << UInt64(region.file.converter.pageShift)
                return RunJournal.Entry(region: piece.region, run: run)
            }
            request.cursor = piece.end
        }
        return nil
    }

    /// The kernel said yes. Under the lock.
    @inline(__always)
    private func commit(_ request: inout ConversionRequest, _ entry: RunJournal.Entry) {
        let file = regions[entry.region].file
        file.ledger.set(entry.run, to: request.wanted)
        if request.wanted == .shared { file.isPristine = false }
        request.pages += UInt64(entry.run.count)
        request.journal.append(entry)
    }

    /// All runs are done. Takes over the lock.
    @inline(__always)
    private func finish(_ request: inout ConversionRequest) throws(GuestMemoryError) -> ConversionOutcome {
        let wake = claims.remove(request.claim)
        if request.wanted == .shared {
            counters.conversionsToShared += 1
            counters.pagesToShared += request.pages
        } else {
            counters.conversionsToPrivate += 1
            counters.pagesToPrivate += request.pages
        }
        if !request.heldPages.isEmpty { counters.failed += 1 }
        if request.loop.counts.anything { count(request.loop.counts) }
        claims.lock.unlock()
        if wake { claims.wakeWaiters() }
        if request.heldPages.isEmpty { return .converted(pages: request.pages) }
        throw heldAround(request)
    }

    func count(_ counts: RetryLoop.Counts) {
        counters.busyAnswers += UInt64(counts.busy)
        counters.noMemoryAnswers += UInt64(counts.noMemory)
        counters.pauses += UInt64(counts.pauses)
    }

    private func place(of page: Int, in region: Region) -> BusyPlace {
        let range = region.guestRange(PageRange(start: page, count: 1))
        let labels = claims.lock.withLock { claims.labels(overlapping: range.address, range.address + range.size) }
        return BusyPlace(
            address: range.address, fileOffset: UInt64(page) << UInt64(region.file.converter.pageShift),
            leases: labels)
    }

    // MARK: Waiting for others of this process

    /// Until no conversion of an overlapping range is under way. Under the lock, which it may release and
    /// take again.
    @inline(__always)
    private func waitForConversions(_ request: inout ConversionRequest) throws(GuestMemoryError) {
        if claims.isEmpty { return }
        try waitSlowly(&request, "a conversion of an overlapping range is under way") { kind in kind != .access }
    }

    /// Until nobody touches the pages. The claim stands already, so no new access begins. Under the lock;
    /// when it throws, the lock and the claim are released.
    @inline(never)
    private func waitForAccesses(_ request: inout ConversionRequest) throws(GuestMemoryError) {
        do throws(GuestMemoryError) {
            try waitSlowly(&request, "it is leased") { kind in kind == .access }
        } catch {
            let wake = claims.remove(request.claim)
            counters.failed += 1
            claims.lock.unlock()
            if wake { claims.wakeWaiters() }
            var failure = error
            failure.outcome = .failed
            throw failure
        }
    }

    @inline(never)
    private func waitSlowly(
        _ request: inout ConversionRequest, _ reason: StaticString, for matches: (Claims.Claim.Kind) -> Bool
    ) throws(GuestMemoryError) {
        var refusals = request.policy.immediateRetries
        while let holder = claims.first(overlapping: request.range.address, request.end, where: matches) {
            if holder.thread == request.thread {
                throw deadlock(request, holder)
            }
            if refusals == request.policy.immediateRetries, holder.kind == .access { counters.leaseWaits += 1 }
            refusals += 1
            let holders = claims.labels(overlapping: request.range.address, request.end)
            do throws(RetryLoop.Failure) {
                try request.loop.await(claims, refusals) {
                    BusyPlace(
                        address: max(holder.start, request.range.address), fileOffset: 0, leases: holders)
                }
            } catch {
                if case .held = error, holder.kind != .access {
                    throw GuestMemoryError(
                        .held, "convert to \(request.wanted)", .again, range: request.range,
                        "\(reason), and did not end in \(request.loop.elapsed / 1_000_000) ms")
                }
                throw error.described(
                    "convert to \(request.wanted)",
                    GuestRange(address: holder.start, size: holder.end - holder.start),
                    elapsed: request.loop.elapsed, holders: named(holders, since: holder.since))
            }
            try checkOpen("convert")
        }
    }

    private func named(_ holders: [String], since: UInt64) -> [String] {
        guard since != 0, let first = holders.first else { return holders }
        return ["\"\(first)\", for \((system.now() - since) / 1_000_000) ms"] + holders.dropFirst().map { "\"\($0)\"" }
    }

    private func deadlock(_ request: ConversionRequest, _ holder: Claims.Claim) -> GuestMemoryError {
        GuestMemoryError(
            .deadlock, "convert to \(request.wanted)", .deadlock, range: request.range,
            holder.kind == .access
                ? "this thread is inside \"\(holder.label)\" on \(hex(holder.start))..<\(hex(holder.end)): leave it first"
                : "this thread is inside a conversion of \(hex(holder.start))..<\(hex(holder.end)): a hook may not "
                    + "convert an overlapping range")
    }
}

/// One call of `convert` on its way through the steps.
struct ConversionRequest {
    let range: GuestRange
    let end: UInt64
    let wanted: Shareability
    let policy: ConversionPolicy
    let thread: UInt64
    var loop: RetryLoop
    var claim: UInt64 = 0
    /// Everything before it is done.
    var cursor: UInt64
    /// Pages converted.
    var pages: UInt64 = 0
    var journal = RunJournal()
    /// What `convertAround` left.
    var heldPages: [GuestRange] = []

    @inline(__always)
    init(
        _ range: GuestRange, end: UInt64, to wanted: Shareability, policy: ConversionPolicy,
        on system: any SystemCalls
    ) {
        self.range = range
        self.end = end
        self.wanted = wanted
        self.policy = policy
        self.thread = cgmem_thread_self()
        self.loop = RetryLoop(policy, on: system)
        self.cursor = range.address
    }
}
