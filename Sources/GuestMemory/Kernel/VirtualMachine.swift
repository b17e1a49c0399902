import CGmem

/// A KVM virtual machine, made by us or by a VMM that lends us its descriptor.
public final class VirtualMachine: @unchecked Sendable {
    let owned: OwnedDescriptor
    package let system: any SystemCalls
    /// What `KVM_CREATE_VM` was asked for. KVM has no call that tells.
    public let type: VMType
    /// Whether the VMM made it. We then choose no slot number and enable no capability unasked.
    public let isBorrowed: Bool

    /// The descriptor, for the VMM's own calls; it stays ours.
    public var descriptor: Int32 { owned.number }

    init(owning descriptor: consuming OwnedDescriptor, type: VMType, on system: any SystemCalls) {
        self.owned = descriptor
        self.system = system
        self.type = type
        self.isBorrowed = false
    }

    /// Borrows a VMM's VM. The descriptor is copied (`F_DUPFD_CLOEXEC`), so the VMM may close its own.
    ///
    /// - Parameter type: what the VMM passed to `KVM_CREATE_VM`. KVM cannot be asked, and on it depends
    ///   whether contents survive a conversion.
    ///
    /// Throws `badDescriptor` for a descriptor that is closed or not a KVM virtual machine.
    public init(
        borrowing descriptor: Int32, type: VMType,
        on system: any SystemCalls = LinuxSystemCalls.shared
    ) throws(GuestMemoryError) {
        self.owned = try OwnedDescriptor(copying: descriptor, from: system)
        self.system = system
        self.type = type
        self.isBorrowed = true
        // Both the device and a VM answer KVM_CHECK_EXTENSION; only the device has an API version.
        let answer = system.ioctl(owned.number, CGMEM_KVM_CHECK_EXTENSION, UInt(CGMEM_KVM_CAP_USER_MEMORY2))
        let version = system.ioctl(owned.number, CGMEM_KVM_GET_API_VERSION, 0)
        if answer < 0 || version >= 0 {
            throw GuestMemoryError(
                .badDescriptor, "ioctl(KVM_CHECK_EXTENSION)", LinuxErrno(result: answer),
                "descriptor \(descriptor) is "
                    + (version >= 0 ? "/dev/kvm itself" : "not a KVM virtual machine")
                    + ": pass what KVM_CREATE_VM returned")
        }
    }

    /// `KVM_CHECK_EXTENSION` on the VM, whose answers may differ from the device's.
    public func checkExtension(_ number: Int32) -> Int {
        max(0, system.ioctl(descriptor, CGMEM_KVM_CHECK_EXTENSION, UInt(number)))
    }

    /// `KVM_SET_USER_MEMORY_REGION2` (Linux 6.8) with a guest_memfd. 0 or -errno.
    ///
    /// `guestView` is the address KVM may fetch guest pages through: never a guarded mapping.
    package func bind(
        slot: UInt32, _ range: GuestRange, guestView: UInt, file: Int32, offset: UInt64
    ) -> Int {
        var region = cgmem_kvm_userspace_memory_region2()
        region.slot = slot
        region.flags = CGMEM_KVM_MEM_GUEST_MEMFD
        region.guest_phys_addr = range.address
        region.memory_size = range.size
        region.userspace_addr = UInt64(guestView)
        region.guest_memfd = UInt32(bitPattern: file)
        region.guest_memfd_offset = offset
        return ioctl(system, descriptor, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
    }

    /// Deletes a slot. 0 or -errno.
    package func unbind(slot: UInt32) -> Int {
        var region = cgmem_kvm_userspace_memory_region2()
        region.slot = slot
        return ioctl(system, descriptor, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
    }
}
