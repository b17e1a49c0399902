public import CGmem

/// mmap, munmap, madvise and fallocate.
extension EmulatedKernel {
    public func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32,
        _ offset: Int64
    ) -> Int {
        let isFixed = flags & CGMEM_MAP_FIXED != 0
        guard flags & CGMEM_MAP_ANONYMOUS == 0, let object = target(descriptor) else {
            if !isFixed { return linux.mmap(address, length, protection, flags, descriptor, offset) }
            // It replaces whatever is there, mappings of ours included.
            return replacing(address, length, alsoLocking: nil) {
                linux.mmap(address, length, protection, flags, descriptor, offset)
            }
        }
        if let fault = scripted(.mmap) { return fault.errno.result }
        // In the order of Linux 6.18: the system call, do_mmap, the file's own mmap.
        let pageMask = UInt64(pageSize - 1)
        if UInt64(bitPattern: offset) & pageMask != 0 || length == 0 { return LinuxErrno.invalid.result }
        guard let rounded = roundUp(length) else { return LinuxErrno.noMemory.result }
        if isFixed && UInt64(address) & pageMask != 0 { return LinuxErrno.invalid.result }
        if offset < 0 || offset.addingReportingOverflow(Int64(rounded)).overflow {
            return LinuxErrno.overflow.result
        }
        let type = flags & CGMEM_MAP_TYPE
        let isShared = type == CGMEM_MAP_SHARED || type == CGMEM_MAP_SHARED_VALIDATE
        if !isShared && type != CGMEM_MAP_PRIVATE { return LinuxErrno.invalid.result }
        if protection & CGMEM_PROT_EXEC != 0 { return LinuxErrno.notPermitted.result }
        guard case .guestMemory(let file) = object, file.isMappable else { return LinuxErrno.noDevice.result }
        if !isShared { return LinuxErrno.invalid.result }

        // Populating and locking touch every page, which is not to happen before the guard stands.
        let quiet = flags & ~(CGMEM_MAP_POPULATE | CGMEM_MAP_LOCKED)
        let result = replacing(isFixed ? address : 0, isFixed ? rounded : 0, alsoLocking: file) {
            // Where the address is known to others, nothing is readable before the guard stands.
            let mapped = linux.mmap(
                address, rounded, isFixed ? CGMEM_PROT_NONE : protection, quiet, file.backing, offset)
            if mapped < 0 { return mapped }
            if isFixed { for other in mappedFiles { other.forget(address, address + UInt(rounded)) } }
            let mapping = HostMapping(
                address: UInt(mapped),
                pages: PageRange(start: Int(offset) / pageSize, count: rounded / pageSize),
                pageSize: pageSize, protection: protection)
            let guarding = file.attach(mapping)
            if guarding != 0 {
                _ = linux.munmap(UInt(mapped), rounded)
                return guarding
            }
            if isFixed { _ = cgmem_mprotect(address, rounded, protection) }
            if !mappedFiles.contains(where: { $0 === file }) { mappedFiles.append(file) }
            return mapped
        }
        if result == LinuxErrno.noMemory.result && mechanism == .holes {
            counting.withLock { $0.mapLimitHits += 1 }
        }
        if result > 0 && flags & CGMEM_MAP_POPULATE != 0 {
            // As much as can be had; mmap does not report what cannot.
            let isWritable = protection & CGMEM_PROT_WRITE != 0
            let advice = isWritable ? CGMEM_MADV_POPULATE_WRITE : CGMEM_MADV_POPULATE_READ
            _ = linux.madvise(UInt(result), rounded, advice)
        }
        return result
    }

    public func munmap(_ address: UInt, _ length: Int) -> Int {
        if overlaps(address, length), let fault = scripted(.munmap) { return fault.errno.result }
        return replacing(address, length, alsoLocking: nil) { linux.munmap(address, length) }
    }

    /// Runs a call that ends every mapping between two addresses when it succeeds, while no conversion
    /// can be working on one of them.
    private func replacing(
        _ address: UInt, _ length: Int, alsoLocking file: EmulatedFile?, _ call: () -> Int
    ) -> Int {
        let end = address &+ UInt(roundUp(length) ?? 0)
        mappingLock.lock()
        var affected = mappedFiles.filter { $0 === file || $0.overlaps(address, end) }
        if let file, !affected.contains(where: { $0 === file }) { affected.append(file) }
        for file in affected { file.lock.lock() }
        let result = call()
        if result >= 0 && file == nil { for file in affected { file.forget(address, end) } }
        for file in affected { file.lock.unlock() }
        mappedFiles.removeAll { $0.mappings.isEmpty }
        mappingLock.unlock()
        // Files that nobody refers to any more die here, outside all locks.
        return withExtendedLifetime(affected) { result }
    }

    private func overlaps(_ address: UInt, _ length: Int) -> Bool {
        let end = address &+ UInt(roundUp(length) ?? 0)
        return mappingLock.withLock { mappedFiles.contains { $0.overlaps(address, end) } }
    }

    /// To whole pages; nil for what does not fit an address space.
    private func roundUp(_ length: Int) -> Int? {
        if length < 0 || length > Int.max - pageSize { return nil }
        return (length + pageSize - 1) & ~(pageSize - 1)
    }

    public func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int {
        guard let rounded = roundUp(length), overlaps(address, length) else {
            return linux.madvise(address, length, advice)
        }
        if let fault = scripted(.madvise) { return fault.errno.result }
        let end = address &+ UInt(rounded)
        if address & UInt(pageSize - 1) != 0 || end < address { return LinuxErrno.invalid.result }
        switch advice {
        case CGMEM_MADV_DONTNEED, CGMEM_MADV_DONTNEED_LOCKED, CGMEM_MADV_COLD, CGMEM_MADV_PAGEOUT:
            // All they could do is drop page-table entries of unevictable memory, which come back at the
            // next touch. Under guard they would not come back, so they stay.
            return eachPart(address, end, advice) { _, _ in 0 }
        case CGMEM_MADV_REMOVE:
            return eachPart(address, end, advice) { file, part in file.punch(part.pages) }
        case CGMEM_MADV_DONTFORK, CGMEM_MADV_DOFORK, CGMEM_MADV_DONTDUMP, CGMEM_MADV_DODUMP:
            return noting(address, end) {
                linux.madvise(address, rounded, advice)
            } _: { mapping in
                switch advice {
                case CGMEM_MADV_DONTFORK: mapping.isForkless = true
                case CGMEM_MADV_DOFORK: mapping.isForkless = false
                case CGMEM_MADV_DONTDUMP: mapping.isDumpless = true
                default: mapping.isDumpless = false
                }
            }
        default:
            // Populating a private page is refused by the guard itself, with EFAULT.
            return linux.madvise(address, length, advice)
        }
    }

    /// As mprotect(2). The library never calls it; a VMM that does must, so that protection is not lost
    /// where pages change state under `Mechanism.holes`.
    public func munlock(_ address: UInt, _ length: Int) -> Int { cgmem_munlock(address, length) }

    public func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int {
        guard let rounded = roundUp(length), overlaps(address, length) else {
            return cgmem_mprotect(address, length, protection)
        }
        if address & UInt(pageSize - 1) != 0 { return LinuxErrno.invalid.result }
        // guest_memfd mappings can never be made executable; those of a memfd could.
        if protection & CGMEM_PROT_EXEC != 0 { return LinuxErrno.permissionDenied.result }
        return noting(address, address &+ UInt(rounded)) {
            cgmem_mprotect(address, length, protection)
        } _: {
            $0.protection = protection
        }
    }

    /// Makes a call that changes mappings, and notes the change when it succeeds.
    private func noting(
        _ start: UInt, _ end: UInt, _ call: () -> Int, _ change: (inout HostMapping) -> Void
    ) -> Int {
        mappingLock.withLock {
            let affected = mappedFiles.filter { $0.overlaps(start, end) }
            for file in affected { file.lock.lock() }
            let result = call()
            if result == 0 { for file in affected { file.note(start, end, change) } }
            for file in affected { file.lock.unlock() }
            return result
        }
    }

    /// Does `work` on the parts of a range that are mappings of this kernel's files, in order, and gives
    /// the advice on the rest to Linux. As there, a gap does not stop it and is reported at the end.
    private func eachPart(
        _ start: UInt, _ end: UInt, _ advice: Int32, _ work: (EmulatedFile, HostMapping) -> Int
    ) -> Int {
        var parts: [(file: EmulatedFile, part: HostMapping)] = []
        mappingLock.withLock {
            for file in mappedFiles {
                for mapping in file.mappings {
                    if let part = mapping.part(start, end) { parts.append((file, part)) }
                }
            }
        }
        parts.sort { $0.part.address < $1.part.address }
        var gap = false
        var position = start
        for index in 0...parts.count {
            let next = index < parts.count ? parts[index].part.address : end
            if position < next {
                let result = linux.madvise(position, Int(next - position), advice)
                if result == LinuxErrno.noMemory.result { gap = true } else if result != 0 { return result }
            }
            if index == parts.count { break }
            let result = work(parts[index].file, parts[index].part)
            if result != 0 { return result }
            position = parts[index].part.end
        }
        return gap ? LinuxErrno.noMemory.result : 0
    }

    public func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
        guard let object = target(descriptor) else {
            return linux.fallocate(descriptor, mode, offset, length)
        }
        if let fault = scripted(.fallocate) { return fault.errno.result }
        // vfs_fallocate, then kvm_gmem_fallocate, Linux 7.3.
        if offset < 0 || length <= 0 { return LinuxErrno.invalid.result }
        if !Self.isCombination(mode) { return LinuxErrno.notSupported.result }
        guard case .guestMemory(let file) = object else { return LinuxErrno.noDevice.result }
        let (end, overflow) = offset.addingReportingOverflow(length)
        if overflow { return LinuxErrno.fileTooBig.result }
        let isPunch = mode & CGMEM_FALLOC_FL_PUNCH_HOLE != 0
        let known = CGMEM_FALLOC_FL_KEEP_SIZE | CGMEM_FALLOC_FL_PUNCH_HOLE
        if mode & CGMEM_FALLOC_FL_KEEP_SIZE == 0 || mode & ~known != 0 { return LinuxErrno.notSupported.result }
        if (offset | length) & Int64(pageSize - 1) != 0 { return LinuxErrno.invalid.result }
        let pages = PageRange(start: Int(offset) / pageSize, count: Int(length) / pageSize)
        if isPunch { return file.punch(pages) }
        if end > Int64(file.size) { return LinuxErrno.invalid.result }
        return file.allocate(pages)
    }

    /// Whether the mode makes sense for any file system at all (the switch in vfs_fallocate).
    private static func isCombination(_ mode: Int32) -> Bool {
        let keepsSize = mode & CGMEM_FALLOC_FL_KEEP_SIZE != 0
        switch mode & ~CGMEM_FALLOC_FL_KEEP_SIZE {
        case 0, 0x10, 0x40: return true  // allocate, ZERO_RANGE, UNSHARE_RANGE
        case CGMEM_FALLOC_FL_PUNCH_HOLE: return keepsSize
        case 0x08, 0x20, 0x80: return !keepsSize  // COLLAPSE_RANGE, INSERT_RANGE, WRITE_ZEROES
        default: return false
        }
    }

    public func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int {
        guard let object = target(descriptor) else { return unsafe linux.fstat(descriptor, status) }
        var answer = cgmem_stat()
        // What each is on Linux 6.18. Blocks are always 0: what is allocated cannot be asked.
        switch object {
        case .device: answer.mode = 0o020600
        case .virtualMachine: answer.mode = 0o000600
        case .guestMemory(let file):
            answer.mode = 0o100600
            answer.inode = file.id
            answer.size = UInt64(file.size)
        }
        unsafe status.pointee = answer
        return 0
    }
}
