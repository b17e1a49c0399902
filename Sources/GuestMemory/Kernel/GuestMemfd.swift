import CGmem

/// A guest_memfd: the file that is a guest's memory.
package final class GuestMemfd: @unchecked Sendable {
    let owned: OwnedDescriptor
    let system: any SystemCalls
    /// Bytes, a multiple of the page.
    package let size: UInt64

    package var descriptor: Int32 { owned.number }

    private init(_ descriptor: consuming OwnedDescriptor, size: UInt64, _ system: any SystemCalls) {
        self.owned = descriptor
        self.size = size
        self.system = system
    }

    /// `KVM_CREATE_GUEST_MEMFD` (Linux 6.8), close-on-exec. The kernel rejects a size that is 0 or not a
    /// multiple of the page, and flags it does not know for this VM, all with EINVAL.
    package static func create(
        in vm: VirtualMachine, size: UInt64, flags: UInt64
    ) throws(GuestMemoryError) -> GuestMemfd {
        let result = tryCreate(in: vm.descriptor, size: size, flags: flags, on: vm.system)
        if let errno = LinuxErrno(result: result) {
            let call = "ioctl(KVM_CREATE_GUEST_MEMFD, size \(hex(size)), flags \(hex(flags)))"
            switch errno {
            case .notTTY:
                throw GuestMemoryError(
                    .unsupported, call, errno,
                    "this kernel has no guest_memfd: Linux 6.8 or newer with CONFIG_KVM_GUEST_MEMFD is needed")
            case .invalid:
                throw GuestMemoryError(
                    .unsupported, call, errno,
                    "the kernel refuses this size or these flags for a \(vm.type) VM: "
                        + "KVM_CAP_GUEST_MEMFD_FLAGS (244) on the VM lists what it knows")
            case .noMemory:
                throw GuestMemoryError(.noMemory, call, errno, "the kernel has no memory for the file")
            case .tooManyOpenFiles, .fileTableFull:
                throw GuestMemoryError(
                    .systemCall, call, errno,
                    "no descriptor is left: raise RLIMIT_NOFILE (EMFILE) or fs.file-max (ENFILE)")
            default:
                throw GuestMemoryError(.systemCall, call, errno, "the file could not be created")
            }
        }
        return GuestMemfd(
            OwnedDescriptor(taking: Int32(result), from: vm.system), size: size, vm.system)
    }

    /// The bare call: a descriptor, or -errno. Probes ask with flags that may be refused.
    static func tryCreate(
        in vm: Int32, size: UInt64, flags: UInt64, on system: any SystemCalls
    ) -> Int {
        var request = cgmem_kvm_create_guest_memfd()
        request.size = size
        request.flags = flags
        return ioctl(system, vm, CGMEM_KVM_CREATE_GUEST_MEMFD, &request)
    }

    /// Takes part in a VMM's own guest_memfd by a close-on-exec copy of its descriptor.
    ///
    /// Throws `badDescriptor` where the descriptor is closed, is no guest_memfd, or is smaller than `atLeast`
    /// bytes. That it belongs to this VM cannot be asked: binding a slot to it would tell.
    package static func adopt(
        _ descriptor: Int32, atLeast size: UInt64, on system: any SystemCalls
    ) throws(GuestMemoryError) -> GuestMemfd {
        let copy = try OwnedDescriptor(copying: descriptor, from: system)
        var status = cgmem_stat()
        // SAFETY: the structure lives for the call.
        let result = unsafe system.fstat(copy.number, &status)
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(.badDescriptor, "fstat(\(descriptor))", errno, "the file cannot be asked")
        }
        // Of all regular files only guest_memfd and memfd_secret refuse to be sought in (ESPIPE).
        let sought = system.lseek(copy.number, 0, CGMEM_SEEK_DATA)
        if status.mode & CGMEM_S_IFMT != CGMEM_S_IFREG || sought != LinuxErrno.illegalSeek.result {
            throw GuestMemoryError(
                .badDescriptor, "fstat(\(descriptor))", nil,
                "descriptor \(descriptor) is not a guest_memfd: pass what KVM_CREATE_GUEST_MEMFD returned")
        }
        if status.size < size {
            throw GuestMemoryError(
                .badDescriptor, "fstat(\(descriptor))", nil,
                "the guest_memfd has \(hex(status.size)) bytes, the regions described need \(hex(size))")
        }
        return GuestMemfd(copy, size: status.size, system)
    }

    /// Device and inode number: which file a descriptor means, whatever its number.
    package var identity: (device: UInt64, inode: UInt64) {
        var status = cgmem_stat()
        // SAFETY: the structure lives for the call.
        _ = unsafe system.fstat(descriptor, &status)
        return (status.device, status.inode)
    }

    /// Maps the whole file shared, for reading and writing. Pages are neither touched nor locked.
    ///
    /// In a process under mlockall(MCL_FUTURE) a plain mapping would allocate the whole guest here and
    /// now, and guard pages cannot be set on locked memory. So it is mapped shut, unlocked, and opened.
    /// (A guest_memfd's pages are never swapped: locking them buys nothing.)
    package func map() throws(GuestMemoryError) -> FileMapping {
        let result = system.mmap(0, Int(size), CGMEM_PROT_NONE, CGMEM_MAP_SHARED, descriptor, 0)
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(
                errno == .noDevice ? .unsupported : errno == .noMemory ? .noMemory : .systemCall,
                "mmap(guest_memfd, \(hex(size)))", errno,
                errno == .noDevice
                    ? "the file was created without GUEST_MEMFD_FLAG_MMAP (Linux 6.18)"
                    : errno == .again
                        ? "mlockall(MCL_FUTURE) is in force and RLIMIT_MEMLOCK is too low: raise it or unlock"
                        : "the file cannot be mapped: no address space, or RLIMIT_AS")
        }
        let mapping = FileMapping(address: UInt(result), size: Int(size), system)
        _ = system.munlock(mapping.address, mapping.size)
        let opened = system.mprotect(mapping.address, mapping.size, CGMEM_PROT_READ | CGMEM_PROT_WRITE)
        if let errno = LinuxErrno(result: opened) {
            throw GuestMemoryError(.systemCall, "mprotect(guest_memfd)", errno, "the mapping cannot be opened")
        }
        return mapping
    }

    /// `fallocate(KEEP_SIZE)`: memory for the range now, in whatever state its pages are. 0 or -errno.
    package func allocate(offset: UInt64, size: UInt64) -> Int {
        // In pieces: a fallocate that a signal interrupts starts over, and under a profiler's timer one
        // for gigabytes would never end.
        var at = offset
        while at < offset + size {
            let count = min(8 << 20, offset + size - at)
            let result = repeatingInterrupted {
                system.fallocate(descriptor, CGMEM_FALLOC_FL_KEEP_SIZE, Int64(at), Int64(count))
            }
            if result != 0 { return result }
            at += count
        }
        return 0
    }

    /// Punches a hole: the pages' memory is given back, their contents are gone, their state stays.
    /// 0 or -errno; EAGAIN in dialect 1 where a huge folio's shared page is held.
    package func punchHole(offset: UInt64, size: UInt64) -> Int {
        repeatingInterrupted {
            system.fallocate(
                descriptor, CGMEM_FALLOC_FL_KEEP_SIZE | CGMEM_FALLOC_FL_PUNCH_HOLE, Int64(offset),
                Int64(size))
        }
    }
}

/// Calls again while a signal interrupts: for calls that are short enough to get through between two.
@inline(__always)
func repeatingInterrupted(_ call: () -> Int) -> Int {
    while true {
        let result = call()
        if result != LinuxErrno.interrupted.result { return result }
    }
}
