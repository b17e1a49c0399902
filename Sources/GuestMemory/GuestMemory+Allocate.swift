extension GuestMemory {
    /// Allocates memory for a range now (`fallocate(KEEP_SIZE)`), whatever the state of its pages: before
    /// a guest starts, private pages can be allocated as whole huge folios where a kernel has them.
    ///
    /// Throws `noMemory`; what was allocated until then stays so.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func preallocate(_ range: GuestRange) throws(GuestMemoryError) {
        try forEachPiece(range, "preallocate", as: .allocation, .vmm) {
            (file, pages, region) throws(GuestMemoryError) in
            file.allocate(offset: region.bytes(pages.start), size: region.bytes(pages.count))
        }
    }

    /// Gives the memory of a range back (`fallocate(PUNCH_HOLE)`): contents are gone, and read as zeros;
    /// states stay. Waits for leases and copies, then throws `held`: a holder would go on with pages that
    /// are the guest's no more. Not by the descriptor in `RegionInfo`: on level `process` the kernel takes
    /// guards away with the pages.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func discard(_ range: GuestRange, policy: ConversionPolicy = .vmm) throws(GuestMemoryError) {
        try forEachPiece(range, "discard", as: .toPrivate, policy) { (file, pages, region) throws(GuestMemoryError) in
            // Punching a page that is mapped somewhere drops the guards over it everywhere.
            if method == .guardPages { files[region.fileIndex].dropGuestView(of: pages, on: system) }
            let result = file.punchHole(offset: region.bytes(pages.start), size: region.bytes(pages.count))
            if method == .guardPages { try restoreGuards(pages, in: region) }
            return result
        }
    }

    /// Guards the private pages of a range again: a vCPU may have mapped some just before they were punched.
    private func restoreGuards(_ pages: PageRange, in region: Region) throws(GuestMemoryError) {
        var rest = pages
        while let run = claims.lock.withLock({ region.ledger.nextRun(notIn: .shared, within: rest) }) {
            let result = region.converter.attempt(run, to: .private, on: system).result
            if result != 0 {
                claims.lock.withLock { shared.value.state = .poisoned }
                var error = GuestMemoryError(
                    .poisoned, "madvise(MADV_GUARD_INSTALL)", LinuxErrno(result: result), range: region.guestRange(run),
                    "pages that were punched could not be guarded again: shut the guest down")
                error.outcome = .poisoned([region.guestRange(run)])
                throw error
            }
            rest = PageRange(start: run.end, count: pages.end - run.end)
        }
    }

    private func forEachPiece(
        _ range: GuestRange, _ operation: StaticString, as kind: Claims.Claim.Kind, _ policy: ConversionPolicy,
        _ call: (GuestMemfd, PageRange, Region) throws(GuestMemoryError) -> Int
    ) throws(GuestMemoryError) {
        let end = try validate(range, operation)
        let claim = try beginUse(range, end, operation, kind, policy)
        defer { endAccess(claim) }
        var at = range.address
        while let piece = nextPiece(at, end) {
            let region = regions[piece.region]
            // Not nil while the claim stands: close refuses.
            guard let file = files[region.fileIndex].file else { throw unusable(operation) }
            let pages = region.pages(piece.start, piece.end)
            let result = try call(file, pages, region)
            if let errno = LinuxErrno(result: result) {
                throw GuestMemoryError(
                    errno == .noMemory || errno == .noSpace ? .noMemory : errno == .again ? .held : .systemCall,
                    "fallocate(\(operation), offset \(hex(region.bytes(pages.start))), size \(hex(region.bytes(pages.count))))",
                    errno, range: GuestRange(piece.start..<piece.end),
                    errno == .noMemory || errno == .noSpace
                        ? "the kernel has no memory left: free some; what was allocated stays"
                        : errno == .again
                            ? "somebody holds a page of a huge folio: let it go and try again"
                            : "the kernel refuses")
            }
            at = piece.end
        }
    }
}
