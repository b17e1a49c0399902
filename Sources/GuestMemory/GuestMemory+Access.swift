import CGmem

extension GuestMemory {
    /// Leases a shared range under a name. Waits, at most `policy.deadline`, for a conversion of it that is
    /// under way; throws `notShared` where a page is, or becomes, private.
    ///
    /// - Parameter range: bytes, not empty, all of it guest memory; need not be aligned.
    public func lease(
        _ range: GuestRange, label: String, policy: ConversionPolicy = .vmm
    ) throws(GuestMemoryError) -> SharedLease {
        let end = try validateBytes(range, "lease")
        let claim = try beginAccess(range.address, end, "lease", label: label, thread: 0, policy)
        var segments: [SharedLease.Segment] = []
        var at = range.address
        while let piece = nextPiece(at, end) {
            segments.append(
                .init(
                    hostAddress: regions[piece.region].hostAddress(piece.start),
                    count: Int(piece.end - piece.start)))
            at = piece.end
        }
        return SharedLease(range, label, in: self, claim: claim, segments: segments)
    }

    /// Where the host sees a range, shared or not. Only while a lease stands is it safe to touch.
    ///
    /// - Parameter range: bytes, not empty, within one region: two regions need not be neighbours here.
    public func hostAddress(of range: GuestRange) throws(GuestMemoryError) -> UInt {
        let index = try region(holding: range, "hostAddress")
        try claims.lock.withLock { () throws(GuestMemoryError) in try checkOpen("hostAddress") }
        return regions[index].hostAddress(range.address)
    }

    /// Runs `body` on the host's view of a shared range, which stays shared meanwhile.
    ///
    /// The bytes belong to a guest that may write them at any moment: read each value once, and check
    /// what was read, not what is there. The pointer is good inside `body` only.
    ///
    /// - Parameter range: bytes, not empty, within one region; need not be aligned.
    public func withSharedBytes<Result>(
        in range: GuestRange, label: String = "withSharedBytes", policy: ConversionPolicy = .vmm,
        _ body: (UnsafeMutableRawBufferPointer) -> Result
    ) throws(GuestMemoryError) -> Result {
        let index = try region(holding: range, "withSharedBytes")
        let end = range.address + range.size
        let claim = try beginAccess(range.address, end, "withSharedBytes", label: label, policy)
        defer { endAccess(claim) }
        let host = regions[index].hostAddress(range.address)
        // SAFETY: the claim keeps every page of the range shared, and the view mapped, until body returns.
        return unsafe body(
            UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: host), count: Int(range.size)))
    }

    /// Copies bytes into shared guest memory, over as many regions as they span. Waits, at most
    /// `policy.deadline`, for a conversion of them that is under way; throws `notShared`, with nothing
    /// written, where a page is private, `held` when the wait was too long.
    public func write(
        _ bytes: Span<UInt8>, at address: UInt64, policy: ConversionPolicy = .vmm
    ) throws(GuestMemoryError) {
        let range = GuestRange(address: address, size: UInt64(bytes.count))
        // SAFETY: the pointer is used while the span is borrowed.
        try unsafe bytes.withUnsafeBufferPointer { (source) throws(GuestMemoryError) in
            try unsafe copy(range, "write", policy) { host, offset, count in
                unsafe cgmem_copy(host, source.baseAddress! + offset, count)
            }
        }
    }

    /// Copies shared guest memory out. Waits and throws as `write`.
    public func read(
        into bytes: inout MutableSpan<UInt8>, at address: UInt64, policy: ConversionPolicy = .vmm
    ) throws(GuestMemoryError) {
        let range = GuestRange(address: address, size: UInt64(bytes.count))
        // SAFETY: the pointer is used while the span is borrowed.
        try unsafe bytes.withUnsafeMutableBufferPointer { (target) throws(GuestMemoryError) in
            try unsafe copy(range, "read", policy) { host, offset, count in
                unsafe cgmem_copy(target.baseAddress! + offset, host, count)
            }
        }
    }

    /// Copies `count` bytes of shared guest memory out. Waits and throws as `write`, before it allocates.
    public func read(
        _ count: Int, at address: UInt64, policy: ConversionPolicy = .vmm
    ) throws(GuestMemoryError) -> [UInt8] {
        if count == 0 { return [] }
        let range = GuestRange(address: address, size: UInt64(clamping: count))
        if count < 0 { throw badBytes(range, "read") }
        _ = try validateBytes(range, "read")
        var bytes = [UInt8](repeating: 0, count: count)
        var span = bytes.mutableSpan
        try read(into: &span, at: address, policy: policy)
        return bytes
    }

    // MARK: -

    /// Claims the bytes and hands them out region by region: where they are, how far into the copy, how many.
    private func copy(
        _ range: GuestRange, _ operation: StaticString, _ policy: ConversionPolicy,
        _ body: (_ host: UnsafeMutableRawPointer, _ offset: Int, _ count: Int) -> Void
    ) throws(GuestMemoryError) {
        if range.size == 0 { return }
        let end = try validateBytes(range, operation)
        let claim = try beginAccess(range.address, end, operation, label: "", policy)
        defer { endAccess(claim) }
        var at = range.address
        while let piece = nextPiece(at, end) {
            let host = regions[piece.region].hostAddress(piece.start)
            // SAFETY: mapped while the memory is open, and shared while the claim stands.
            unsafe body(
                UnsafeMutableRawPointer(bitPattern: host)!, Int(piece.start - range.address),
                Int(piece.end - piece.start))
            at = piece.end
        }
    }

    /// Throws unless the bytes are not none, do not wrap, and all lie in guest memory. Returns their end.
    private func validateBytes(_ range: GuestRange, _ operation: StaticString) throws(GuestMemoryError) -> UInt64 {
        if isForked { throw unusable(operation) }
        guard range.size != 0, let end = range.end, let whole = range.roundedOut(to: pageMask + 1) else {
            throw badBytes(range, operation)
        }
        _ = try validate(whole, operation)
        return end
    }

    /// The region that holds all of the bytes.
    private func region(holding range: GuestRange, _ operation: StaticString) throws(GuestMemoryError) -> Int {
        let end = try validateBytes(range, operation)
        guard let index = region(containing: range.address), end <= regions[index].end else {
            throw GuestMemoryError(
                .badRange, "\(operation)", .invalid, range: range,
                "the range crosses a border of two regions, which need not be neighbours in this process: split it")
        }
        return index
    }

    private func beginAccess(
        _ start: UInt64, _ end: UInt64, _ operation: StaticString, label: String,
        thread: UInt64 = cgmem_thread_self(), _ policy: ConversionPolicy
    ) throws(GuestMemoryError) -> UInt64 {
        // The clock is read for leases alone: copies are over before anybody could ask for their age.
        let since = thread == 0 ? system.now() : 0
        var loop = RetryLoop(policy, on: system)
        var refusals = 0
        claims.lock.lock()
        defer { claims.lock.unlock() }
        while true {
            try checkOpen(operation)
            // Also one to shared: should it fail half-way, its pages become private again.
            guard let holder = claims.first(overlapping: start, end, where: { $0.isConversion }) else { break }
            // The conversion is waiting for what covers these bytes, or for nothing in them.
            if claims.isCovered(start, end, by: cgmem_thread_self()) { break }
            refusals += 1
            if holder.thread == cgmem_thread_self() {
                throw GuestMemoryError(
                    .deadlock, "\(operation)", .deadlock, range: GuestRange(start..<end),
                    "this thread is converting \(hex(holder.start))..<\(hex(holder.end))")
            }
            do throws(RetryLoop.Failure) {
                try loop.await(claims, refusals) {
                    self.busyPlace(max(holder.start, start), leases: [])
                }
            } catch {
                if case .held = error {
                    throw GuestMemoryError(
                        .held, "\(operation)", .again, range: GuestRange(start..<end),
                        "\(hex(holder.start))..<\(hex(holder.end)) is being converted, and was not done in "
                            + "\(loop.elapsed / 1_000_000) ms: try again")
                }
                throw error.described("\(operation)", GuestRange(start..<end), elapsed: loop.elapsed)
            }
        }
        try checkShared(start, end, operation)
        return claims.addAccess(start, end, thread: thread, label: label, since: since)
    }

    func endAccess(_ claim: UInt64) {
        if isForked { return }
        let wake = claims.lock.withLock { claims.remove(claim) }
        if wake { claims.wakeWaiters() }
    }

    /// Under the lock: every page is shared.
    private func checkShared(_ start: UInt64, _ end: UInt64, _ operation: StaticString) throws(GuestMemoryError) {
        let last = (end + pageMask) & ~pageMask
        var at = start & ~pageMask
        while let piece = nextPiece(at, last) {
            let region = regions[piece.region]
            let pages = region.pages(piece.start, piece.end)
            if let run = region.ledger.nextRun(notIn: .shared, within: pages) {
                let range = region.guestRange(run)
                throw GuestMemoryError(
                    .notShared, "\(operation)", .badAddress, range: range,
                    "the page at \(hex(range.address)) is private to the guest: convert it to shared first")
            }
            at = piece.end
        }
    }

    private func badBytes(_ range: GuestRange, _ operation: StaticString) -> GuestMemoryError {
        GuestMemoryError(
            .badRange, "\(operation)", .invalid, range: range,
            range.size == 0 ? "the range is empty" : "the range wraps around the end of the address space")
    }
}
