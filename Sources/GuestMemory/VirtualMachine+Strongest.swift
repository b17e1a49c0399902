extension VirtualMachine {
    /// A VM on the strongest level that this machine offers: of KVM's VM types the one whose memory
    /// converts best, or an emulated kernel's where KVM does not reach `require`.
    public static func strongest(require: PrivacyLevel = .kernel) throws(GuestMemoryError) -> VirtualMachine {
        var best: (level: PrivacyLevel, vm: VirtualMachine)?
        var reason: GuestMemoryError?
        do throws(GuestMemoryError) {
            let device = try KVMDevice.open()
            // Of the types that need no hardware: private memory first.
            for type in [VMType.softwareProtected, .default] where device.vmTypes.contains(type) {
                // A type that is listed, and then cannot be had, does not hide the next one.
                do throws(GuestMemoryError) {
                    let vm = try device.createVirtualMachine(type)
                    guard let level = try MemoryCapabilities.detect(vm).level else { continue }
                    if best.map({ level > $0.level }) ?? true { best = (level, vm) }
                } catch {
                    reason = error
                }
            }
        } catch {
            reason = error
        }
        if let best, best.level >= require { return best.vm }
        if require == .emulated {
            return try KVMDevice.open(on: EmulatedKernel()).createVirtualMachine(.softwareProtected)
        }
        if let best {
            throw GuestMemoryError(
                .levelTooWeak, "VirtualMachine.strongest(require: \(require))", .notSupported,
                "this machine's KVM offers level \(best.level)")
        }
        throw reason
            ?? GuestMemoryError(
                .unsupported, "VirtualMachine.strongest(require: \(require))", .notSupported,
                "no VM type of this kernel has guest memory that can be mapped and kept private")
    }
}
