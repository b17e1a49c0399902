import CGmem

/// `/dev/kvm`.
public final class KVMDevice: @unchecked Sendable {
    let owned: OwnedDescriptor
    let system: any SystemCalls

    /// Opens the device and checks that it speaks KVM's API version 12, the only one there has been
    /// since Linux 2.6.22 (`KVM_GET_API_VERSION`).
    ///
    /// Throws `notFound` where there is no such file, `noPermission`, and `badDescriptor` where it is
    /// something else than KVM.
    public static func open(
        _ path: String = "/dev/kvm", on system: any SystemCalls = LinuxSystemCalls.shared
    ) throws(GuestMemoryError) -> KVMDevice {
        // SAFETY: the C string lives for the call.
        let result = unsafe path.withCString { unsafe system.open($0, CGMEM_O_RDWR | CGMEM_O_CLOEXEC) }
        if let errno = LinuxErrno(result: result) {
            switch errno {
            case .noSuchFile, .noDevice, .noSuchDeviceOrAddress:
                throw GuestMemoryError(
                    .notFound, "open(\(path))", errno,
                    "no KVM here: load kvm_intel or kvm_amd, enable virtualization in the firmware, or, "
                        + "in a container or VM, have the device passed in")
            case .permissionDenied, .notPermitted:
                throw GuestMemoryError(
                    .noPermission, "open(\(path))", errno,
                    "this user may not open it: join the group that owns it (usually kvm)")
            default:
                throw GuestMemoryError(
                    .systemCall, "open(\(path))", errno,
                    errno == .tooManyOpenFiles
                        ? "no descriptor is left: raise RLIMIT_NOFILE" : "the device cannot be opened")
            }
        }
        let device = KVMDevice(OwnedDescriptor(taking: Int32(result), from: system), system)
        let version = system.ioctl(device.descriptor, CGMEM_KVM_GET_API_VERSION, 0)
        if version != Int(CGMEM_KVM_API_VERSION) {
            throw GuestMemoryError(
                .badDescriptor, "ioctl(KVM_GET_API_VERSION)", LinuxErrno(result: version),
                "\(path) is not a KVM device with API version 12"
                    + (version >= 0 ? " (it says \(version))" : ""))
        }
        return device
    }

    /// The descriptor, for the VMM's own calls; it stays ours.
    public var descriptor: Int32 { owned.number }

    private init(_ descriptor: consuming OwnedDescriptor, _ system: any SystemCalls) {
        self.owned = descriptor
        self.system = system
    }

    /// `KVM_CHECK_EXTENSION` on the device: 0 where the kernel does not know the number. A hint only:
    /// numbers from 240 on have meant different things.
    public func checkExtension(_ number: Int32) -> Int {
        max(0, system.ioctl(descriptor, CGMEM_KVM_CHECK_EXTENSION, UInt(number)))
    }

    /// The types that `KVM_CAP_VM_TYPES` (Linux 6.8) lists; `default` where it lists none.
    public var vmTypes: [VMType] {
        let mask = checkExtension(CGMEM_KVM_CAP_VM_TYPES)
        let types = (0..<UInt32(32)).filter { mask >> Int($0) & 1 == 1 }.map { VMType(rawValue: $0) }
        return types.isEmpty ? [.default] : types
    }

    /// `KVM_CREATE_VM`. Throws `unsupported` for a type this kernel does not offer.
    public func createVirtualMachine(_ type: VMType = .default) throws(GuestMemoryError) -> VirtualMachine {
        var result = LinuxErrno.interrupted.result
        // Registering with the process's memory takes every mapping's lock, and a signal interrupts that.
        // With many mappings and a fast timer it would never come through, so there is an end to trying.
        var tries = 0
        while result == LinuxErrno.interrupted.result, tries < 100 {
            result = system.ioctl(descriptor, CGMEM_KVM_CREATE_VM, UInt(type.rawValue))
            tries += 1
        }
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(
                errno == .invalid ? .unsupported : .systemCall, "ioctl(KVM_CREATE_VM, \(type))", errno,
                errno == .invalid
                    ? "this kernel has no \(type) VMs, but \(vmTypes.map { "\($0)" }.joined(separator: ", "))"
                    : errno == .interrupted
                        ? "signals interrupted it \(tries) times: block them for the call"
                        : "no virtual machine could be created: out of descriptors or memory?")
        }
        return VirtualMachine(
            owning: OwnedDescriptor(taking: Int32(result), from: system), type: type, on: system)
    }
}
