extension GuestMemory {
    /// Allocates memory for a range now (`fallocate(KEEP_SIZE)`), whatever the state of its pages: before
    /// a guest starts, private pages can be allocated as whole huge folios where a kernel has them.
    ///
    /// Throws `noMemory`; what was allocated until then stays so.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func preallocate(_ range: GuestRange) throws(GuestMemoryError) {
        try forEachPiece(range, "preallocate", as: .allocation) { file, offset, size in
            file.allocate(offset: offset, size: size)
        }
    }

    /// Gives the memory of a range back (`fallocate(PUNCH_HOLE)`): contents are gone, and read as zeros;
    /// states stay. Waits for leases and copies, at most 5 s, then throws `held`: a holder would go on
    /// with pages that are the guest's no more.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func discard(_ range: GuestRange) throws(GuestMemoryError) {
        try forEachPiece(range, "discard", as: .toPrivate) { file, offset, size in
            file.punchHole(offset: offset, size: size)
        }
    }

    private func forEachPiece(
        _ range: GuestRange, _ operation: StaticString, as kind: Claims.Claim.Kind,
        _ call: (GuestMemfd, UInt64, UInt64) -> Int
    ) throws(GuestMemoryError) {
        let end = try validate(range, operation)
        let claim = try beginUse(range, end, operation, kind)
        defer { endAccess(claim) }
        var at = range.address
        while let piece = nextPiece(at, end) {
            let region = regions[piece.region]
            // Not nil while the claim stands: close refuses.
            guard let file = files[region.fileIndex].file else { throw unusable(operation) }
            let offset = piece.start - region.range.address + region.fileOffset
            let result = call(file, offset, piece.end - piece.start)
            if let errno = LinuxErrno(result: result) {
                throw GuestMemoryError(
                    errno == .noMemory || errno == .noSpace ? .noMemory : errno == .again ? .held : .systemCall,
                    "fallocate(\(operation), offset \(hex(offset)), size \(hex(piece.end - piece.start)))", errno,
                    range: GuestRange(piece.start..<piece.end),
                    errno == .noMemory
                        ? "the kernel has no memory left: free some; what was allocated stays"
                        : errno == .again
                            ? "somebody holds a page of a huge folio: let it go and try again"
                            : "the kernel refuses")
            }
            at = piece.end
        }
    }
}
