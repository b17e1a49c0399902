import CGmem

/// A VM: its type and its memory slots.
final class EmulatedVirtualMachine: @unchecked Sendable {
    /// The slots a VMM may use: KVM_USER_MEM_SLOTS on x86.
    static var slotLimit: Int { 32_764 }
    /// The end of what user space may address; beyond it KVM does not believe an address.
    private static var addressLimit: UInt64 { 0x7fff_ffff_f000 }

    private struct Slot {
        var number: UInt32
        var flags: UInt32
        /// Guest-physical pages.
        var guest: PageRange
        var userspaceAddress: UInt64
        /// The guest_memfd bound to it, 0 when none is, or is no longer: a slot does not keep its file.
        var file: UInt64
        var filePages: PageRange
    }

    let type: UInt
    let hasPrivateMemory: Bool
    private let lock = Lock()
    private var slots: [Slot] = []
    /// What KVM_CAP_EXIT_HYPERCALL was last set to, one bit a hypercall.
    var exitHypercalls: UInt64 = 0

    init(type: UInt) {
        self.type = type
        hasPrivateMemory = EmulatedKernel.Configuration.VMTypes.withPrivateMemory
            .contains(EmulatedKernel.Configuration.VMTypes(rawValue: 1 << UInt32(type)))
    }

    /// The file is gone: its slots stay, with nothing behind them.
    func orphan(file: UInt64) {
        lock.withLock {
            for index in slots.indices where slots[index].file == file { slots[index].file = 0 }
        }
    }

    func enableCapability(_ request: cgmem_kvm_enable_cap) -> Int {
        if request.flags != 0 || request.cap != UInt32(CGMEM_KVM_CAP_EXIT_HYPERCALL)
            || request.args.0 & ~(1 << UInt64(CGMEM_KVM_HC_MAP_GPA_RANGE)) != 0
        {
            return LinuxErrno.invalid.result
        }
        lock.withLock { exitHypercalls = request.args.0 }
        return 0
    }

    /// KVM_SET_USER_MEMORY_REGION2, with the order of checks of `kvm_set_memory_region` in Linux 7.3.
    /// Every number in the request comes from the caller, so no arithmetic on it may trap.
    func setRegion(_ request: cgmem_kvm_userspace_memory_region2, _ kernel: EmulatedKernel) -> Int {
        // The lower half of the slot is its number, the upper one the address space; there is one.
        if Int(request.slot & 0xffff) >= Self.slotLimit { return LinuxErrno.invalid.result }
        // The file may die with this reference, and then takes the lock itself: so it outlives the lock.
        let object = kernel.target(Int32(bitPattern: request.guest_memfd))
        return withExtendedLifetime(object) {
            lock.withLock { setRegionLocked(request, object, kernel) }
        }
    }

    private func setRegionLocked(
        _ request: cgmem_kvm_userspace_memory_region2, _ object: EmulatedObject?, _ kernel: EmulatedKernel
    ) -> Int {
        let invalid = LinuxErrno.invalid.result
        let pageMask = UInt64(kernel.pageSize - 1)
        let isGuestMemfd = request.flags & CGMEM_KVM_MEM_GUEST_MEMFD != 0
        if !areValid(flags: request.flags, kernel.configuration) { return invalid }
        if request.memory_size & pageMask != 0 || request.guest_phys_addr & pageMask != 0 { return invalid }
        let (userEnd, userWraps) = request.userspace_addr.addingReportingOverflow(request.memory_size)
        if request.userspace_addr & pageMask != 0 || userWraps || userEnd > Self.addressLimit {
            return invalid
        }
        if isGuestMemfd
            && (request.guest_memfd_offset & pageMask != 0
                || request.guest_memfd_offset.addingReportingOverflow(request.memory_size).overflow)
        {
            return invalid
        }
        if request.slot >> 16 != 0 { return invalid }
        let (guestEnd, guestWraps) = request.guest_phys_addr.addingReportingOverflow(request.memory_size)
        let pages = request.memory_size / UInt64(kernel.pageSize)
        // KVM_MEM_MAX_NR_PAGES: a dirty bitmap must have a bit for each.
        if guestWraps || pages > (1 << 31) - 1 { return invalid }

        let old = slots.firstIndex { $0.number == request.slot }
        if request.memory_size == 0 {
            guard let old else { return invalid }
            slots.remove(at: old)
            return 0
        }
        let guest = PageRange(
            start: Int(request.guest_phys_addr / UInt64(kernel.pageSize)), count: Int(pages))
        if let old {
            // A slot with guest_memfd is immutable; of another, only flags and place may change.
            let slot = slots[old]
            let fixedFlags = CGMEM_KVM_MEM_GUEST_MEMFD | CGMEM_KVM_MEM_READONLY
            if isGuestMemfd || slot.userspaceAddress != request.userspace_addr
                || slot.guest.count != guest.count || (slot.flags ^ request.flags) & fixedFlags != 0
            {
                return invalid
            }
        }
        for slot in slots where slot.number != request.slot && slot.guest.overlaps(guest) {
            return LinuxErrno.exists.result
        }
        var slot = Slot(
            number: request.slot, flags: request.flags, guest: guest,
            userspaceAddress: request.userspace_addr, file: 0, filePages: PageRange(start: 0, count: 0))
        if isGuestMemfd {
            let result = bind(&slot, request, object, kernel)
            if result != 0 { return result }
        }
        // Asked last, by the architecture's part (kvm_arch_prepare_memory_region).
        if (guestEnd - 1) >> UInt64(kernel.configuration.physicalAddressBits) != 0 { return invalid }
        if let old { slots[old] = slot } else { slots.append(slot) }
        return 0
    }

    private func areValid(flags: UInt32, _ configuration: EmulatedKernel.Configuration) -> Bool {
        // Neither dirty logging nor read-only slots work with guest_memfd.
        if flags & CGMEM_KVM_MEM_GUEST_MEMFD == 0 {
            return flags & ~(CGMEM_KVM_MEM_LOG_DIRTY_PAGES | CGMEM_KVM_MEM_READONLY) == 0
        }
        return flags == CGMEM_KVM_MEM_GUEST_MEMFD && (configuration.guestMemfdForEveryVM || hasPrivateMemory)
    }

    /// `kvm_gmem_bind`.
    private func bind(
        _ slot: inout Slot, _ request: cgmem_kvm_userspace_memory_region2, _ object: EmulatedObject?,
        _ kernel: EmulatedKernel
    ) -> Int {
        let file: EmulatedFile
        switch object {
        case .guestMemory(let found): file = found
        case .device, .virtualMachine: return LinuxErrno.invalid.result
        case nil:
            var status = cgmem_stat()
            let isOpen = unsafe kernel.linux.fstat(Int32(bitPattern: request.guest_memfd), &status) == 0
            return isOpen ? LinuxErrno.invalid.result : LinuxErrno.badFileDescriptor.result
        }
        if file.vm !== self { return LinuxErrno.invalid.result }
        // The sum cannot wrap: it was checked.
        if request.guest_memfd_offset + request.memory_size > UInt64(file.size) {
            return LinuxErrno.invalid.result
        }
        slot.file = file.id
        slot.filePages = PageRange(
            start: Int(request.guest_memfd_offset) / kernel.pageSize, count: slot.guest.count)
        for other in slots where other.file == file.id && other.filePages.overlaps(slot.filePages) {
            return kernel.configuration.overlappingBindError.result
        }
        // RFC v2 wanted the mapping at userspace_addr to be of the same file at the same offset.
        if kernel.configuration.creationFlags == .rfc && file.isMappable && request.userspace_addr != 0
            && !file.isMapped(
                page: slot.filePages.start, at: UInt(request.userspace_addr), under: kernel.mappingLock)
        {
            return LinuxErrno.invalid.result
        }
        return 0
    }
}
