import CGmem

/// A part of a plan that is written in one way to one stretch of guest memory.
struct PayloadSegment {
    enum Source {
        /// The address of bytes of the caller's.
        case memory(UInt)
        case file(descriptor: Int32, offset: UInt64)
        case zeros
    }

    var range: GuestRange
    var source: Source

    /// The part of it that starts `skip` bytes in.
    func part(_ skip: UInt64, _ count: UInt64) -> PayloadSegment {
        let source: Source =
            switch self.source {
            case .memory(let address): .memory(address + UInt(skip))
            case .file(let descriptor, let offset): .file(descriptor: descriptor, offset: offset + skip)
            case .zeros: .zeros
            }
        return PayloadSegment(
            range: GuestRange(address: range.address + skip, size: count), source: source)
    }

    /// The data of a part of a file, and its holes as zeros: what SEEK_DATA and SEEK_HOLE say. A file system
    /// without holes says that all of it is data.
    static func split(
        _ range: GuestRange, file descriptor: Int32, offset: UInt64, on system: any SystemCalls
    ) -> [PayloadSegment] {
        let whole = PayloadSegment(range: range, source: .file(descriptor: descriptor, offset: offset))
        // Seeking moves the position of everybody who shares the open file, so it is opened anew.
        let path = "/proc/self/fd/\(descriptor)"
        // SAFETY: the C string lives for the call.
        let opened = unsafe path.withCString { unsafe system.open($0, CGMEM_O_RDONLY | CGMEM_O_CLOEXEC) }
        if opened < 0 { return [whole] }
        let file = OwnedDescriptor(taking: Int32(opened), from: system)

        var parts: [PayloadSegment] = []
        let end = offset + range.size
        var at = offset
        func append(_ to: UInt64, isHole: Bool) {
            if to > at {
                var part = whole.part(at - offset, to - at)
                if isHole { part.source = .zeros }
                parts.append(part)
            }
            at = max(at, to)
        }
        while at < end {
            let data = system.lseek(file.number, Int64(at), CGMEM_SEEK_DATA)
            if data == LinuxErrno.noSuchDeviceOrAddress.result {
                append(end, isHole: true)
            } else if data < 0 {
                append(end, isHole: false)
            } else {
                append(min(UInt64(data), end), isHole: true)
                let hole = system.lseek(file.number, Int64(at), CGMEM_SEEK_HOLE)
                // Somebody truncates the file meanwhile: what is missing shows when it is read.
                append(hole > Int(at) ? min(UInt64(hole), end) : end, isHole: false)
            }
        }
        // A file that shrank meanwhile has no data there either, but what it lacks is no hole: reading says so.
        var status = cgmem_stat()
        // SAFETY: the structure lives for the call.
        let known = unsafe system.fstat(file.number, &status)
        return known == 0 && status.size >= end ? parts : [whole]
    }
}
