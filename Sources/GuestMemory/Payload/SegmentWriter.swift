import CGmem

/// Writes payload segments into mapped, shared guest memory. Knows nothing of regions or conversions.
struct SegmentWriter: Sendable {
    /// One piece of work: bytes of one segment, where they go in this process, and what page of which
    /// file that is.
    struct Piece {
        var segment: PayloadSegment
        var host: UInt
        var file: Int32
        var fileOffset: UInt64

        /// `count` bytes of it, from `skip` on.
        func part(_ skip: Int, _ count: Int) -> Piece {
            Piece(
                segment: segment.part(UInt64(skip), UInt64(count)), host: host + UInt(skip), file: file,
                fileOffset: fileOffset + UInt64(skip))
        }
    }

    let system: any SystemCalls
    /// Whether whole pages of zeros become holes instead of being written.
    let punchesZeros: Bool
    /// Compare what was written with its source.
    let verifies: Bool

    private var pageSize: Int { system.pageSize }

    /// Bytes that are allocated at once, and that one thread takes at a time: enough to take the page
    /// cache's bookkeeping out of the faults, little enough to keep threads from waiting for each other.
    static let pieceSize: UInt64 = 8 << 20
    /// Bytes that are mapped and then copied in one go: enough to make the call cheap, and little enough
    /// to find the pages that the kernel has just zeroed in the second-level cache still.
    private static let stepSize = 512 << 10

    func write(_ piece: Piece) throws(GuestMemoryError) {
        let count = Int(piece.segment.range.size)
        let isSparse = hasZeroPage(piece, count)
        if !isSparse { try allocate(piece, count) }
        var done = 0
        while done < count {
            // Steps end where the memory's own steps do, so that pages are not cut.
            let length = min(count - done, Self.stepSize - Int(piece.host + UInt(done)) % Self.stepSize)
            try step(piece.part(done, length), length, isSparse: isSparse)
            done += length
        }
    }

    /// Whether some page of the piece becomes a hole. A look at the first bytes of each page says no.
    private func hasZeroPage(_ piece: Piece, _ count: Int) -> Bool {
        guard punchesZeros, case .memory(let source) = piece.segment.source else { return false }
        let first = (pageSize - Int(piece.host) % pageSize) % pageSize
        // SAFETY: the source is the caller's word.
        return stride(from: first, through: count - pageSize, by: pageSize).contains { at in
            unsafe cgmem_is_zero(pointer(source + UInt(at)), pageSize)
        }
    }

    /// Memory for the whole piece in one call: a third of what the faults would cost goes away with it.
    private func allocate(_ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        let mask = UInt64(pageSize - 1)
        let start = piece.fileOffset & ~mask
        let length = (piece.fileOffset + UInt64(count) + mask) & ~mask - start
        let result = repeatingInterrupted {
            system.fallocate(piece.file, CGMEM_FALLOC_FL_KEEP_SIZE, Int64(start), Int64(length))
        }
        // Any other answer is left to the faults, which need no fallocate.
        if result == LinuxErrno.noMemory.result {
            throw GuestMemoryError(
                .noMemory, "fallocate(KEEP_SIZE)", .noMemory, range: piece.segment.range,
                "no memory is left for the guest")
        }
    }

    private func step(_ piece: Piece, _ count: Int, isSparse: Bool) throws(GuestMemoryError) {
        switch piece.segment.source {
        case .memory(let source) where isSparse:
            try copySparsely(source, piece, count)
        case .memory(let source):
            try copy(source, piece, count)
        case .file(let descriptor, let offset):
            try fault(piece, count)
            try read(descriptor, offset, piece.host, count, piece.segment.range)
            if verifies { try verify(piece, count) }
        case .zeros:
            try zero(piece, count)
        }
    }

    /// Maps the pages for writing, all in one call: a fault each would cost more than the copy. It is also
    /// what turns "no memory" into an answer instead of a signal.
    private func fault(_ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        let mask = UInt(pageSize - 1)
        let start = piece.host & ~mask
        let length = Int((piece.host + UInt(count) + mask) & ~mask - start)
        let result = repeatingInterrupted { system.madvise(start, length, CGMEM_MADV_POPULATE_WRITE) }
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(
                errno == .noMemory ? .noMemory : .systemCall, "madvise(MADV_POPULATE_WRITE)", errno,
                range: piece.segment.range,
                errno == .noMemory ? "no memory is left for the guest" : "the guest's memory could not be mapped")
        }
    }

    private func copy(_ source: UInt, _ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        try fault(piece, count)
        // SAFETY: the source is the caller's word, the target was just mapped and is kept shared.
        unsafe cgmem_copy(pointer(piece.host), pointer(source), count)
        if verifies { try verify(piece, count) }
    }

    private func zero(_ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        try fault(piece, count)
        // SAFETY: just mapped, and kept shared by the caller's lease.
        unsafe cgmem_zero(pointer(piece.host), count)
        if verifies { try verify(piece, count) }
    }

    /// Copies runs of pages that hold anything but zeros, and makes holes of the others.
    private func copySparsely(_ source: UInt, _ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        var runStart = 0
        var runIsZero = false
        var at = 0
        while at < count {
            let length = min(count - at, pageSize - Int(piece.host + UInt(at)) % pageSize)
            // SAFETY: the source is the caller's word.
            let isZero = unsafe length == pageSize && cgmem_is_zero(pointer(source + UInt(at)), length)
            if isZero != runIsZero {
                try finishRun(source, piece, runStart, at, runIsZero)
                (runStart, runIsZero) = (at, isZero)
            }
            at += length
        }
        try finishRun(source, piece, runStart, count, runIsZero)
    }

    private func finishRun(
        _ source: UInt, _ piece: Piece, _ start: Int, _ end: Int, _ isZero: Bool
    ) throws(GuestMemoryError) {
        if start == end { return }
        let part = piece.part(start, end - start)
        if !isZero { return try copy(source + UInt(start), part, end - start) }
        let result = repeatingInterrupted {
            system.fallocate(
                piece.file, CGMEM_FALLOC_FL_KEEP_SIZE | CGMEM_FALLOC_FL_PUNCH_HOLE, Int64(part.fileOffset),
                Int64(end - start))
        }
        // Where no hole can be made, zeros will do.
        if result != 0 { try zero(part, end - start) }
    }

    /// Reads straight into place.
    private func read(
        _ descriptor: Int32, _ offset: UInt64, _ host: UInt, _ count: Int, _ range: GuestRange
    ) throws(GuestMemoryError) {
        var done = 0
        while done < count {
            let result = repeatingInterrupted {
                // SAFETY: mapped and kept shared; the kernel checks every byte.
                unsafe system.pread(descriptor, pointer(host + UInt(done)), count - done, Int64(offset) + Int64(done))
            }
            if result == 0 {
                throw GuestMemoryError(
                    .shortSource, "pread(\(descriptor), \(hex(offset + UInt64(done))))", nil, range: range,
                    "the payload file ends here, \(count - done) bytes too early: it shrank while it was read")
            }
            if let errno = LinuxErrno(result: result) {
                throw GuestMemoryError(
                    .systemCall, "pread(\(descriptor), \(hex(offset + UInt64(done))))", errno, range: range,
                    "the payload file cannot be read")
            }
            done += result
        }
    }

    // MARK: Verification

    private func verify(_ piece: Piece, _ count: Int) throws(GuestMemoryError) {
        let isSame: Bool
        switch piece.segment.source {
        case .memory(let source):
            isSame = unsafe !cgmem_differs(pointer(piece.host), pointer(source), count)
        case .zeros:
            isSame = unsafe cgmem_is_zero(pointer(piece.host), count)
        case .file(let descriptor, let offset):
            let copy = PayloadBytes(count: count)
            try read(descriptor, offset, copy.address, count, piece.segment.range)
            isSame = unsafe !cgmem_differs(pointer(piece.host), pointer(copy.address), count)
        }
        if !isSame {
            throw GuestMemoryError(
                .verifyFailed, "populate", .io, range: piece.segment.range,
                "what is in the guest's memory differs from its source: somebody else writes to one of them")
        }
    }

    private func pointer(_ address: UInt) -> UnsafeMutableRawPointer {
        // Never 0: addresses come from mappings and from non-empty buffers.
        unsafe UnsafeMutableRawPointer(bitPattern: address)!
    }
}
