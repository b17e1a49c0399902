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
        claims.lock.lock()
        // What nearly always happens, without a detour: one region, nobody in the way, one run, one answer.
        guard isOpen, let index = region(containing: range.address), end <= regions[index].end,
            claims.first(overlapping: range.address, end, where: { $0 != .allocation }) == nil
        else {
            claims.lock.unlock()
            return try convertInSteps(range, end, to: wanted, policy)
        }
        let region = regions[index]
        let pages = region.pages(range.address, end)
        guard let run = region.ledger.nextRun(notIn: wanted, within: pages) else {
            shared.value.counters.unchanged &+= 1
            claims.lock.unlock()
            return .unchanged
        }
        let thread = cgmem_thread_self()
        let claim = claims.add(wanted == .private ? .toPrivate : .toShared, range.address, end, thread: thread)
        claims.lock.unlock()

        let answer = region.converter.attempt(run, to: wanted, on: system)
        if answer.result == 0 {
            claims.lock.lock()
            let rest = PageRange(start: run.end, count: pages.end - run.end)
            if rest.isEmpty || region.ledger.nextRun(notIn: wanted, within: rest) == nil {
                commit(run, region, wanted)
                let wake = finish(claim, wanted, pages: UInt64(run.count))
                if wake { claims.wakeWaiters() }
                return .converted(pages: UInt64(run.count))
            }
            claims.lock.unlock()
        }
        // More runs, or a refusal: go on from the answer.
        var request = ConversionRequest(range, end, to: wanted, policy, thread: thread, on: system)
        request.claim = claim
        request.cursor = region.guestRange(run).end ?? end
        return try proceed(&request, RunJournal.Entry(region: index, run: run), answer)
    }

    // MARK: Step by step

    /// The whole way: waiting for others first.
    @inline(never)
    private func convertInSteps(
        _ range: GuestRange, _ end: UInt64, to wanted: Shareability, _ policy: ConversionPolicy
    ) throws(GuestMemoryError) -> ConversionOutcome {
        var request = ConversionRequest(
            range, end, to: wanted, policy, thread: cgmem_thread_self(), on: system)
        claims.lock.lock()
        do throws(GuestMemoryError) {
            try checkOpen("convert")
            try wait(&request, "convert to \(wanted)", "a conversion of an overlapping range is under way") {
                $0.isConversion
            }
        } catch {
            claims.lock.unlock()
            throw error
        }
        guard let first = nextRun(&request) else {
            shared.value.counters.unchanged += 1
            claims.lock.unlock()
            return .unchanged
        }
        request.claim = claims.add(
            wanted == .private ? .toPrivate : .toShared, range.address, end, thread: request.thread)
        var entry = first
        // The claim stands, so no new access begins; those that are there have until the deadline.
        if wanted == .private, try waitForAccesses(&request) {
            // Around leases: what is to be converted is not what it was.
            request.cursor = range.address
            guard let other = nextRun(&request) else {
                let wake = claims.remove(request.claim)
                shared.value.counters.failed += 1
                claims.lock.unlock()
                if wake { claims.wakeWaiters() }
                throw heldAround(request)
            }
            entry = other
        }
        claims.lock.unlock()
        let answer = regions[entry.region].converter.attempt(entry.run, to: wanted, on: system)
        return try proceed(&request, entry, answer)
    }

    /// From the first answer to the end.
    @inline(never)
    private func proceed(
        _ request: inout ConversionRequest, _ first: RunJournal.Entry, _ firstAnswer: ConversionAnswer
    ) throws(GuestMemoryError) -> ConversionOutcome {
        var entry = first
        var answer = firstAnswer
        while true {
            let region = regions[entry.region]
            do throws(RetryLoop.Failure) {
                try request.loop.persist(
                    entry.run, to: request.wanted, by: region.converter, after: answer
                ) { page in place(of: page, in: region) }
                claims.lock.lock()
                commit(&request, entry)
            } catch {
                // Returns only where the policy is to convert around what is held, and that was done.
                try recover(&request, from: error, at: entry)
                claims.lock.lock()
            }
            guard let after = nextRun(&request) else { break }
            claims.lock.unlock()
            entry = after
            answer = regions[entry.region].converter.attempt(entry.run, to: request.wanted, on: system)
        }
        count(request.loop.counts)
        if !request.heldPages.isEmpty { shared.value.counters.failed += 1 }
        let wake = finish(request.claim, request.wanted, pages: request.pages)
        if wake { claims.wakeWaiters() }
        if request.heldPages.isEmpty { return .converted(pages: request.pages) }
        throw heldAround(request)
    }

    /// The next run that differs from what is wanted. Under the lock.
    private func nextRun(_ request: inout ConversionRequest) -> RunJournal.Entry? {
        while let piece = nextPiece(request.cursor, request.end) {
            let region = regions[piece.region]
            let pages = region.pages(piece.start, piece.end)
            guard var run = region.ledger.nextRun(notIn: request.wanted, within: pages) else {
                request.cursor = piece.end
                continue
            }
            let range = region.guestRange(run)
            if let spared = request.spared.first(where: { $0.overlaps(range) }) {
                if spared.address <= range.address {
                    request.cursor = spared.address + spared.size
                    continue
                }
                run.count = Int((spared.address - range.address) >> UInt64(region.converter.pageShift))
            }
            request.cursor = region.guestRange(run).end ?? request.end
            return RunJournal.Entry(region: piece.region, run: run)
        }
        return nil
    }

    /// The kernel said yes. Under the lock.
    @inline(__always)
    private func commit(_ run: PageRange, _ region: Region, _ wanted: Shareability) {
        region.ledger.set(run, to: wanted)
    }

    /// The kernel said yes to a run of a request. Under the lock.
    func commit(_ request: inout ConversionRequest, _ entry: RunJournal.Entry) {
        commit(entry.run, regions[entry.region], request.wanted)
        request.pages += UInt64(entry.run.count)
        request.journal.append(entry)
    }

    /// All runs are done: the claim ends, and so does the lock that was held. Returns whether to wake waiters.
    @inline(__always)
    private func finish(_ claim: UInt64, _ wanted: Shareability, pages: UInt64) -> Bool {
        let wake = claims.remove(claim)
        if wanted == .shared {
            shared.value.counters.conversionsToShared &+= 1
            shared.value.counters.pagesToShared &+= pages
        } else {
            shared.value.counters.conversionsToPrivate &+= 1
            shared.value.counters.pagesToPrivate &+= pages
        }
        claims.lock.unlock()
        return wake
    }

    /// Under the lock.
    func count(_ counts: RetryLoop.Counts) {
        shared.value.counters.busyAnswers += UInt64(counts.busy)
        shared.value.counters.noMemoryAnswers += UInt64(counts.noMemory)
        shared.value.counters.pauses += UInt64(counts.pauses)
    }

    private func place(of page: Int, in region: Region) -> ConversionPolicy.Busy {
        let range = region.guestRange(PageRange(start: page, count: 1))
        let labels = claims.lock.withLock { claims.labels(overlapping: range.address, range.address + range.size) }
        return busyPlace(range.address, leases: labels)
    }

    /// What a hook is told of the page at a guest-physical address of a region.
    func busyPlace(_ address: UInt64, leases: [String]) -> ConversionPolicy.Busy {
        let page = address & ~pageMask
        let offset = region(containing: page).map { page - regions[$0].range.address + regions[$0].fileOffset }
        return ConversionPolicy.Busy(address: page, fileOffset: offset ?? 0, leases: leases)
    }

    // MARK: Waiting for others of this process

    /// Until nobody touches the pages. Returns whether some stay in use and are to be converted around.
    /// Under the lock; when it throws, the lock and the claim are released.
    private func waitForAccesses(_ request: inout ConversionRequest) throws(GuestMemoryError) -> Bool {
        do throws(GuestMemoryError) {
            try wait(&request, "convert to private", "it is leased") { $0 == .access }
            return false
        } catch {
            if error.code == .held, request.policy.heldPages == .convertAround {
                request.spared = claims.accessed(request.range.address, request.end, pageMask: pageMask)
                request.heldPages = request.spared
                return true
            }
            let wake = claims.remove(request.claim)
            shared.value.counters.failed += 1
            count(request.loop.counts)
            claims.lock.unlock()
            if wake { claims.wakeWaiters() }
            var failure = error
            failure.outcome = .failed
            throw failure
        }
    }

    /// Claims a range for something else than a conversion or an access, once nobody is in its way.
    func beginUse(
        _ range: GuestRange, _ end: UInt64, _ operation: StaticString, _ kind: Claims.Claim.Kind,
        _ policy: ConversionPolicy
    ) throws(GuestMemoryError) -> UInt64 {
        var request = ConversionRequest(range, end, to: .private, policy, thread: cgmem_thread_self(), on: system)
        claims.lock.lock()
        defer { claims.lock.unlock() }
        try checkOpen(operation)
        if kind == .toPrivate {
            try wait(&request, "\(operation)", "the range is being converted") { $0 != .allocation }
        }
        return claims.add(kind, range.address, end, thread: request.thread)
    }

    /// Until no claim of these kinds overlaps the request. Under the lock, which is released meanwhile.
    private func wait(
        _ request: inout ConversionRequest, _ operation: String, _ reason: StaticString,
        for matches: (Claims.Claim.Kind) -> Bool
    ) throws(GuestMemoryError) {
        var waits = 0
        while let holder = claims.first(overlapping: request.range.address, request.end, where: matches) {
            if holder.thread == request.thread { throw deadlock(request, operation, holder) }
            if waits == 0, holder.kind == .access { shared.value.counters.leaseWaits += 1 }
            waits += 1
            let holders = claims.labels(overlapping: request.range.address, request.end)
            do throws(RetryLoop.Failure) {
                try request.loop.await(claims, waits) {
                    self.busyPlace(max(holder.start, request.range.address), leases: holders)
                }
            } catch {
                if case .held = error, holder.kind != .access {
                    throw GuestMemoryError(
                        .held, operation, .again, range: request.range,
                        "\(reason), and did not end in \(request.loop.elapsed / 1_000_000) ms")
                }
                throw error.described(
                    operation,
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

    private func deadlock(
        _ request: ConversionRequest, _ operation: String, _ holder: Claims.Claim
    ) -> GuestMemoryError {
        GuestMemoryError(
            .deadlock, operation, .deadlock, range: request.range,
            holder.kind == .access
                ? "this thread is inside \"\(claims.label(of: holder))\" on \(hex(holder.start))..<\(hex(holder.end)): leave it first"
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
    /// Leased pages that are left as they are, in order.
    var spared: [GuestRange] = []

    init(
        _ range: GuestRange, _ end: UInt64, to wanted: Shareability, _ policy: ConversionPolicy, thread: UInt64,
        on system: any SystemCalls
    ) {
        self.range = range
        self.end = end
        self.wanted = wanted
        self.policy = policy
        self.thread = thread
        self.loop = RetryLoop(policy, on: system)
        self.cursor = range.address
    }
}
