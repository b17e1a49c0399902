extension GuestMemory {
    /// A run could not be converted. Converts around what is held where that is the policy, and returns;
    /// else settles what became of the request, and throws. Outside the lock; when it throws, the claim
    /// is gone.
    func recover(
        _ request: inout ConversionRequest, from failure: RetryLoop.Failure, at entry: RunJournal.Entry
    ) throws(GuestMemoryError) {
        let region = regions[entry.region]
        if case .held = failure, request.policy.heldPages == .convertAround {
            do throws(RetryLoop.AroundFailure) {
                let held = try request.loop.convertAround(
                    entry.run, to: request.wanted, by: region.converter
                ) { page in
                    self.busyPlace(region.guestRange(PageRange(start: page, count: 1)).address, leases: [])
                }
                commit(&request, entry.run.without(held), in: entry.region)
                request.heldPages += held.map { region.guestRange($0) }
                return
            } catch {
                // Where the failed call may have left traces, its span alone is put back.
                commit(&request, entry.run.without(error.unconverted), in: entry.region)
                try settle(&request, error.reason, .init(region: entry.region, run: error.span))
            }
        }
        try settle(&request, failure, entry)
    }

    /// What the error of a request that went around held pages says.
    func heldAround(_ request: ConversionRequest) -> GuestMemoryError {
        var error = RetryLoop.Failure.held(page: 0, byHook: false).described(
            "\(method.call(to: request.wanted))", request.heldPages[0], elapsed: request.loop.elapsed)
        error.message += ". What is held was left (\(request.heldPages.count) parts), everything else is converted"
        error.outcome = request.journal.count == 0 ? .failed : .partial(guestRanges(request.journal))
        return error
    }

    private func commit(_ request: inout ConversionRequest, _ runs: [PageRange], in region: Int) {
        claims.lock.withLock {
            for run in runs { commit(&request, .init(region: region, run: run)) }
        }
    }

    /// Undoes or keeps what was converted before the failure, ends the claim, and throws the error that
    /// says which.
    private func settle(
        _ request: inout ConversionRequest, _ failure: RetryLoop.Failure, _ entry: RunJournal.Entry
    ) throws(GuestMemoryError) -> Never {
        let region = regions[entry.region]
        let isClean = wipeTraces(request, entry.run, in: region)
        var error = failure.described(
            "\(method.call(to: request.wanted))", failure.range(in: region, entry.run),
            elapsed: request.loop.elapsed, holders: failure.holders(in: region, claims))

        let undo =
            switch request.policy.onFailure {
            case .undo: true
            case .keep: false
            case .byVMType: virtualMachine.type.contentsSurviveConversion
            }
        if !isClean {
            error.outcome = .poisoned(guestRanges(request.journal) + [region.guestRange(entry.run)])
        } else if request.journal.count == 0 {
            error.outcome = .failed
        } else if request.heldPages.isEmpty, undo {
            error.outcome = undoAll(&request)
        } else {
            error.outcome = .partial(guestRanges(request.journal))
        }

        claims.lock.lock()
        shared.value.counters.failed += 1
        count(request.loop.counts)
        if case .poisoned = error.outcome { shared.value.state = .poisoned }
        let wake = claims.remove(request.claim)
        claims.lock.unlock()
        if wake { claims.wakeWaiters() }
        throw error
    }

    /// Converts everything in the journal back, the latest first. Nobody has begun to touch the pages
    /// meanwhile: accesses wait for the claim.
    private func undoAll(_ request: inout ConversionRequest) -> ConversionOutcome {
        var index = request.journal.count
        while index > 0 {
            let entry = request.journal[index - 1]
            let region = regions[entry.region]
            if !convertBack(entry.run, in: region, request) {
                return .poisoned(guestRanges(request.journal, count: index))
            }
            claims.lock.withLock {
                region.ledger.set(entry.run, to: request.wanted.opposite)
                shared.value.counters.pagesUndone += UInt64(entry.run.count)
            }
            index -= 1
        }
        return .failed
    }

    /// After a failure that may have changed some of a run: all of it back to what the ledger says. Pages
    /// that never changed cost nothing. Returns whether that worked.
    private func wipeTraces(_ request: ConversionRequest, _ run: PageRange, in region: Region) -> Bool {
        if !region.converter.mayLeaveTraces(afterNoMemory: request.loop.counts.noMemory > 0) { return true }
        return convertBack(run, in: region, request)
    }

    /// Converts a run to what the request does not want, with its policy but without its hooks: those are
    /// for getting the pages that the caller does want.
    private func convertBack(_ run: PageRange, in region: Region, _ request: ConversionRequest) -> Bool {
        var policy = request.policy
        policy.onBusy = nil
        policy.onNoMemory = nil
        policy.isCancelled = nil
        var loop = RetryLoop(policy, on: system)
        do throws(RetryLoop.Failure) {
            try loop.convert(run, to: request.wanted.opposite, by: region.converter) { _ in
                ConversionPolicy.Busy(address: 0, fileOffset: 0, leases: [])
            }
            return true
        } catch {
            return false
        }
    }

    /// The first `count` entries of a journal (all, by default) in guest-physical order, merged.
    private func guestRanges(_ journal: RunJournal, count: Int? = nil) -> [GuestRange] {
        var ranges: [GuestRange] = []
        for index in 0..<(count ?? journal.count) {
            let entry = journal[index]
            let range = regions[entry.region].guestRange(entry.run)
            if let last = ranges.last, last.end == range.address {
                ranges[ranges.count - 1].size += range.size
            } else {
                ranges.append(range)
            }
        }
        return ranges
    }
}

extension RetryLoop.Failure {
    /// The guest-physical bytes the failure is about: a page where one is known, else the run.
    fileprivate func range(in region: Region, _ run: PageRange) -> GuestRange {
        switch self {
        case .held(let page, _), .cancelled(let page): region.guestRange(PageRange(start: page, count: 1))
        case .noMemory, .refused: region.guestRange(run)
        }
    }

    fileprivate func holders(in region: Region, _ claims: Claims) -> [String] {
        guard case .held(let page, _) = self else { return [] }
        let range = region.guestRange(PageRange(start: page, count: 1))
        return claims.lock.withLock { claims.labels(overlapping: range.address, range.address + range.size) }
    }
}

extension PageRange {
    /// What is left of the range without these disjoint parts of it, in order.
    func without(_ parts: [PageRange]) -> [PageRange] {
        var rest: [PageRange] = []
        var at = start
        for part in parts.sorted(by: { $0.start < $1.start }) {
            if part.start > at { rest.append(PageRange(start: at, count: part.start - at)) }
            at = part.end
        }
        if at < end { rest.append(PageRange(start: at, count: end - at)) }
        return rest
    }
}
