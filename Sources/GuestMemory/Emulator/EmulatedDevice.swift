import CGmem

/// Requests on /dev/kvm and on VM descriptors.
extension EmulatedKernel {
    public func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        guard let object = target(descriptor) else { return linux.ioctl(descriptor, request, argument) }
        if let fault = scripted(.ioctl(request)) { return answer(fault, request, argument) }
        switch object {
        case .device: return deviceRequest(request, argument)
        case .virtualMachine(let vm): return vmRequest(vm, request, argument)
        case .guestMemory(let file): return fileRequest(file, request, argument)
        }
    }

    private func deviceRequest(_ request: UInt32, _ argument: UInt) -> Int {
        switch request {
        case CGMEM_KVM_GET_API_VERSION:
            return argument == 0 ? Int(CGMEM_KVM_API_VERSION) : LinuxErrno.invalid.result
        case CGMEM_KVM_CHECK_EXTENSION:
            return capability(argument, nil)
        case CGMEM_KVM_CREATE_VM:
            guard argument < 32, configuration.vmTypes.rawValue & (1 << UInt32(argument)) != 0 else {
                return LinuxErrno.invalid.result
            }
            // KVM makes VM descriptors close-on-exec, unlike those of guest_memfd.
            return install(.virtualMachine(EmulatedVirtualMachine(type: argument)), closeOnExec: true)
        default:
            // x86 answers EINVAL, not ENOTTY, to a request that its device does not know (Linux 6.18).
            return LinuxErrno.invalid.result
        }
    }

    private func vmRequest(_ vm: EmulatedVirtualMachine, _ request: UInt32, _ argument: UInt) -> Int {
        switch request {
        case CGMEM_KVM_CHECK_EXTENSION:
            return capability(argument, vm)
        case CGMEM_KVM_ENABLE_CAP:
            guard let asked = copyIn(argument, cgmem_kvm_enable_cap.self) else {
                return LinuxErrno.badAddress.result
            }
            return vm.enableCapability(asked)
        case CGMEM_KVM_CREATE_GUEST_MEMFD:
            guard let asked = copyIn(argument, cgmem_kvm_create_guest_memfd.self) else {
                return LinuxErrno.badAddress.result
            }
            return createGuestMemory(vm, asked)
        case CGMEM_KVM_SET_USER_MEMORY_REGION2:
            guard let asked = copyIn(argument, cgmem_kvm_userspace_memory_region2.self) else {
                return LinuxErrno.badAddress.result
            }
            return vm.setRegion(asked, self)
        default:
            return LinuxErrno.notTTY.result
        }
    }

    /// KVM_CREATE_GUEST_MEMFD. Reserved words are not looked at, as in Linux 6.18.
    private func createGuestMemory(
        _ vm: EmulatedVirtualMachine, _ asked: cgmem_kvm_create_guest_memfd
    ) -> Int {
        let invalid = LinuxErrno.invalid.result
        if asked.flags & ~validCreationFlags(vm) != 0 { return invalid }
        let isMappable = asked.flags & CGMEM_GUEST_MEMFD_FLAG_MMAP != 0
        let bit1 = asked.flags & CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED != 0
        let initially: Shareability
        switch configuration.creationFlags {
        case .none: initially = .private
        case .upstream: initially = bit1 ? .shared : .private
        case .rfc:
            if bit1 && !isMappable { return invalid }
            initially = bit1 ? .private : .shared
        }
        guard let size = Int(exactly: asked.size), size > 0, size % pageSize == 0 else { return invalid }
        guard
            let file = EmulatedFile(
                id: newFileID(), vm: vm, size: size, pageSize: pageSize, isMappable: isMappable,
                initially: initially, guardian: guardian, references: references)
        else { return LinuxErrno.noMemory.result }
        return install(.guestMemory(file), closeOnExec: false)
    }

    /// The flags that KVM_CREATE_GUEST_MEMFD takes for a VM; nil asks for the device's answer.
    private func validCreationFlags(_ vm: EmulatedVirtualMachine?) -> UInt64 {
        let mmap = CGMEM_GUEST_MEMFD_FLAG_MMAP
        let both = mmap | CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED
        switch configuration.creationFlags {
        case .none: return 0
        case .rfc: return both
        case .upstream:
            guard let vm, vm.hasPrivateMemory else { return both }
            return convertsByAttributes || configuration.dialects.contains(.convert) ? both : mmap
        }
    }

    /// Whether dialect 2b is there and not switched off.
    var convertsByAttributes: Bool {
        configuration.dialects.contains(.attributes2) && configuration.inPlaceConversion
    }

    /// KVM_CHECK_EXTENSION on the device (`vm` nil) or on a VM.
    private func capability(_ number: UInt, _ vm: EmulatedVirtualMachine?) -> Int {
        for known in configuration.capabilityAnswers where known.number == number { return known.answer }
        let mayBePrivate = vm?.hasPrivateMemory ?? true
        if let attributes = configuration.attributesCapability, number == attributes {
            return convertsByAttributes && mayBePrivate ? Int(CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE) : 0
        }
        switch Int32(exactly: number) {
        case 3, 16, 98, 105:
            // USER_MEMORY, SYNC_MMU, ENABLE_CAP_VM, CHECK_EXTENSION_VM: in every kernel since 2014.
            return 1
        case 10:  // NR_MEMSLOTS
            return EmulatedVirtualMachine.slotLimit
        case CGMEM_KVM_CAP_EXIT_HYPERCALL:
            return 1 << Int(CGMEM_KVM_HC_MAP_GPA_RANGE)
        case CGMEM_KVM_CAP_USER_MEMORY2, CGMEM_KVM_CAP_MEMORY_FAULT_INFO:
            return 1
        case CGMEM_KVM_CAP_GUEST_MEMFD:
            return configuration.guestMemfdForEveryVM || mayBePrivate ? 1 : 0
        case CGMEM_KVM_CAP_VM_TYPES:
            return Int(configuration.vmTypes.rawValue)
        case CGMEM_KVM_CAP_GUEST_MEMFD_FLAGS:
            return configuration.creationFlags == .upstream ? Int(validCreationFlags(vm)) : 0
        case CGMEM_KVM_CAP_RFC_GMEM_SHARED_MEM:
            return configuration.creationFlags == .rfc ? 1 : 0
        case CGMEM_KVM_CAP_RFC_GMEM_CONVERSION:
            return configuration.dialects.contains(.convert) ? 1 : 0
        default:
            return 0
        }
    }

    /// copy_from_user: nil where there is nothing to copy from.
    func copyIn<Value: BitwiseCopyable>(_ argument: UInt, _: Value.Type) -> Value? {
        guard let pointer = unsafe UnsafeRawPointer(bitPattern: argument) else { return nil }
        // SAFETY: the caller of an ioctl vouches for what it points to, as it does to the kernel.
        return unsafe pointer.loadUnaligned(as: Value.self)
    }
}
