extension GuestMemory {
    /// Allocates memory for a range now (`fallocate(KEEP_SIZE)`), whatever the state of its pages: before
    /// a guest starts, private pages can be allocated as whole huge folios where a kernel has them.
    ///
    /// Throws `noMemory`; what was allocated until then stays so.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func preallocate(_ range: GuestRange) throws(GuestMemoryError) {
        try forEachPiece(range, "preallocate") { file, offset, size in
            file.allocate(offset: offset, size: size)
        }
    }

    /// Gives the memory of a range back (`fallocate(PUNCH_HOLE)`): contents are gone, and read as zeros;
    /// states stay.
    ///
    /// - Parameter range: bytes, page-aligned, all of it guest memory.
    public func discard(_ range: GuestRange) throws(GuestMemoryError) {
        try forEachPiece(range, "discard") { file, offset, size in
            file.punchHole(offset: offset, size: size)
        }
    }

    private func forEachPiece(
        _ range: GuestRange, _ operation: StaticString, _ call: (GuestMemfd, UInt64, UInt64) -> Int
    ) throws(GuestMemoryError) {
        let end = try validate(range, operation)
        try claims.lock.withLock { () throws(GuestMemoryError) in try checkOpen(operation) }
        var at = range.address
        while let piece = nextPiece(at, end) {
            let region = regions[piece.region]
            guard let file = files[region.fileIndex].file else { return }
            let offset = piece.start - region.range.address + region.fileOffset
            let result = call(file, offset, piece.end - piece.start)
            if let errno = Errno(result: result) {
                throw GuestMemoryError(
                    errno == .noMemory || errno == .noSpace ? .noMemory : errno == .again ? .held : .systemCall,
                    "fallocate(\(operation))", errno, range: GuestRange(piece.start..<piece.end),
                    errno == .noMemory ? "the kernel has no memory left" : "the kernel refuses")
            }
            at = piece.end
        }
    }
}
