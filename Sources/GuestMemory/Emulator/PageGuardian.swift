import CGmem

/// The means to keep the host out of pages, shared by all files of a kernel: a userfaultfd, or an empty
/// file that is mapped where nobody may go.
final class PageGuardian: Sendable {
    let isUserfault: Bool
    let descriptor: Int32
    private let reserve = Locked<UInt>(0)

    init(_ mechanism: EmulatedKernel.Mechanism) throws(GuestMemoryError) {
        if mechanism != .holes, let userfault = Self.openUserfault() {
            descriptor = userfault
            isUserfault = true
            return
        }
        if mechanism == .userfaultfd {
            throw GuestMemoryError(
                .unsupported, "userfaultfd", nil,
                "this process cannot have a userfaultfd with SIGBUS and MINOR faults on memfd (Linux 5.14, "
                    + "not filtered by seccomp): use the mechanism .holes or .automatic")
        }
        let empty = unsafe cgmem_memfd_create("gmem-hole", CGMEM_MFD_CLOEXEC)
        if let errno = LinuxErrno(result: empty) {
            throw GuestMemoryError(
                .systemCall, "memfd_create", errno, "the emulated kernel needs a descriptor of its own")
        }
        descriptor = Int32(empty)
        isUserfault = false
        keepReserve()
    }

    deinit {
        spendReserve()
        _ = cgmem_close(descriptor)
    }

    /// With UFFD_FEATURE_SIGBUS a fault is refused whoever makes it, so the restricted kind that
    /// unprivileged processes may have serves as well as the plain one.
    private static func openUserfault() -> Int32? {
        let flags = CGMEM_O_CLOEXEC
        var result = cgmem_userfaultfd(flags)
        if result < 0 { result = cgmem_userfaultfd(flags | CGMEM_UFFD_USER_MODE_ONLY) }
        if result < 0 { return nil }
        let descriptor = Int32(result)
        var api = cgmem_uffdio_api()
        api.api = CGMEM_UFFD_API
        api.features =
            CGMEM_UFFD_FEATURE_SIGBUS | CGMEM_UFFD_FEATURE_MISSING_SHMEM | CGMEM_UFFD_FEATURE_MINOR_SHMEM
        if ioctl(LinuxSystemCalls.shared, descriptor, CGMEM_UFFDIO_API, &api) < 0 {
            _ = cgmem_close(descriptor)
            return nil
        }
        return descriptor
    }

    // MARK: userfaultfd

    /// From now on a page without a page-table entry is SIGBUS here. Harmless where it is so already.
    func register(_ part: HostMapping) -> Int {
        var request = cgmem_uffdio_register()
        request.range.start = UInt64(part.address)
        request.range.len = UInt64(part.length)
        request.mode = CGMEM_UFFDIO_REGISTER_MODE_MISSING | CGMEM_UFFDIO_REGISTER_MODE_MINOR
        return ioctl(LinuxSystemCalls.shared, descriptor, CGMEM_UFFDIO_REGISTER, &request)
    }

    func unregister(_ part: HostMapping) -> Int {
        var range = cgmem_uffdio_range(start: UInt64(part.address), len: UInt64(part.length))
        return ioctl(LinuxSystemCalls.shared, descriptor, CGMEM_UFFDIO_UNREGISTER, &range)
    }

    /// Enters the file's pages into the page table. Returns how many from the start are in: fewer than
    /// asked where the file has no page yet (-EFAULT in `errno`), or the kernel failed.
    func enter(_ part: HostMapping) -> (pages: Int, errno: LinuxErrno?) {
        var done = 0
        while done < part.length {
            var request = cgmem_uffdio_continue()
            request.range.start = UInt64(part.address) + UInt64(done)
            request.range.len = UInt64(part.length - done)
            request.mode = CGMEM_UFFDIO_CONTINUE_MODE_DONTWAKE
            guard
                let errno = LinuxErrno(
                    result: ioctl(LinuxSystemCalls.shared, descriptor, CGMEM_UFFDIO_CONTINUE, &request))
            else { break }
            switch errno {
            case .again:
                // Partly done, or the process is in the middle of a fork: go on from there.
                done += max(0, Int(request.mapped))
            case .exists:
                // The first page is in already.
                done += part.pageSize
            default:
                return (done / part.pageSize, errno)
            }
        }
        return (part.pages.count, nil)
    }

    // MARK: Holes

    /// Covers the pages with nothing. At their own offset in the empty file, so that neighbours merge
    /// into one kernel mapping.
    func cover(_ part: HostMapping) -> Int { place(part, descriptor) }

    /// Puts the file's own pages back.
    func uncover(_ part: HostMapping, _ backing: Int32) -> Int { place(part, backing) }

    /// Kernel mappings for an undo: at the map limit nothing can be mapped, not even to put things back.
    /// A page of its own is one; differing protection keeps it from merging with the next.
    func keepReserve() {
        reserve.withLock { base in
            if base != 0 { return }
            let pageSize = cgmem_page_size()
            let flags = CGMEM_MAP_PRIVATE | CGMEM_MAP_ANONYMOUS | CGMEM_MAP_NORESERVE
            let result = cgmem_mmap(0, Self.reservePages * pageSize, CGMEM_PROT_NONE, flags, -1, 0)
            if result < 0 { return }
            base = UInt(result)
            for index in stride(from: 0, to: Self.reservePages, by: 2) {
                _ = cgmem_mprotect(base + UInt(index * pageSize), pageSize, CGMEM_PROT_READ)
            }
        }
    }

    func spendReserve() {
        reserve.withLock { base in
            if base != 0 { _ = cgmem_munmap(base, Self.reservePages * cgmem_page_size()) }
            base = 0
        }
    }

    private static var reservePages: Int { 16 }

    private func place(_ part: HostMapping, _ file: Int32) -> Int {
        let result = cgmem_mmap(
            part.address, part.length, part.protection,
            CGMEM_MAP_SHARED | CGMEM_MAP_FIXED | CGMEM_MAP_NORESERVE, file,
            Int64(part.pages.start * part.pageSize))
        if result < 0 { return result }
        if part.isForkless { _ = cgmem_madvise(part.address, part.length, CGMEM_MADV_DONTFORK) }
        if part.isDumpless { _ = cgmem_madvise(part.address, part.length, CGMEM_MADV_DONTDUMP) }
        return 0
    }
}

/// Drops page-table entries; the pages stay in the file.
func dropEntries(_ part: HostMapping) -> Int {
    let result = cgmem_madvise(part.address, part.length, CGMEM_MADV_DONTNEED)
    // Locked memory has a call of its own.
    if result == LinuxErrno.invalid.result {
        return cgmem_madvise(part.address, part.length, CGMEM_MADV_DONTNEED_LOCKED)
    }
    return result
}
