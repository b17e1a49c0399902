import CGmem

extension GuestMemory {
    /// Creates a guest's memory in a VM, on the strongest level its kernel offers.
    ///
    /// For each region without a file of its own: `KVM_CREATE_GUEST_MEMFD` (mappable, so Linux 6.18), a
    /// mapping for the host, and, where a slot is named, `KVM_SET_USER_MEMORY_REGION2`. No guest memory is
    /// allocated (but a page where a VMM's own file is looked at). Everything is checked first, and whatever
    /// was made is taken back when a step fails; the state of pages in a VMM's own file, once set, is not.
    ///
    /// - Parameters:
    ///   - regions: at least one; sizes and addresses in bytes, multiples of the page.
    ///   - initially: the state of every page of new files. Confidential guests start private.
    ///   - require: the weakest level accepted. A kernel that offers less is an error, `levelTooWeak`.
    /// - Note: On level `process` an all-private start costs a guard per page: 7 ms and 2 MiB of page
    ///   tables per GiB.
    public static func create(
        in vm: VirtualMachine, regions requests: [RegionRequest], initially: Shareability = .private,
        require: PrivacyLevel = .kernel
    ) throws(GuestMemoryError) -> GuestMemory {
        try checkRequests(requests, pageSize: UInt64(vm.system.pageSize))
        let capabilities = try MemoryCapabilities.detect(vm)
        let (level, method) = try choose(capabilities, require)
        var builder = MemoryBuilder(vm, capabilities, method)
        for request in requests { try builder.add(request, initially) }
        try builder.setFirstStates()
        let memory = try GuestMemory(
            virtualMachine: vm, capabilities: capabilities, level: level, method: method,
            regions: builder.regions.sorted { $0.range.address < $1.range.address }, files: builder.files)
        try memory.bindSlots()
        return memory
    }

    /// Creates memory on the strongest level this machine offers, in a VM made for it: real KVM if it
    /// reaches `require`, else, with `require: .emulated`, an emulated kernel.
    ///
    /// For tools and tests. A VMM has a VM of its own and says so: `create(in:regions:initially:require:)`.
    public static func create(
        regions: [RegionRequest], initially: Shareability = .private, require: PrivacyLevel = .kernel
    ) throws(GuestMemoryError) -> GuestMemory {
        let vm = try VirtualMachine.strongest(require: require)
        return try create(in: vm, regions: regions, initially: initially, require: require)
    }

    private static func checkRequests(
        _ requests: [RegionRequest], pageSize: UInt64
    ) throws(GuestMemoryError) {
        let call = "GuestMemory.create"
        if requests.isEmpty {
            throw GuestMemoryError(.badSize, call, .invalid, "a guest's memory needs at least one region")
        }
        for (index, request) in requests.enumerated() {
            let range = request.range
            if range.size == 0 || range.size % pageSize != 0 {
                throw GuestMemoryError(
                    .badSize, call, .invalid, range: range,
                    "the size \(hex(range.size)) is not a positive multiple of the page, \(pageSize) bytes")
            }
            if range.address % pageSize != 0 {
                throw GuestMemoryError(
                    .badRange, call, .invalid, range: range,
                    "the address is not a multiple of the page, \(pageSize) bytes")
            }
            guard let end = range.end, range.size <= UInt64(Int64.max) else {
                throw GuestMemoryError(
                    .badRange, call, .invalid, range: range, "the region wraps around the address space")
            }
            if case .existing(let descriptor, let offset, _) = request.backing {
                if offset % pageSize != 0 || offset.addingReportingOverflow(range.size).overflow {
                    throw GuestMemoryError(
                        .badRange, call, .invalid, range: range,
                        "offset \(hex(offset)) in descriptor \(descriptor) is unaligned or too large")
                }
            }
            for other in requests[..<index] {
                if other.range.address < end, let otherEnd = other.range.end, range.address < otherEnd {
                    throw GuestMemoryError(
                        .overlap, call, .exists, range: range, "the region overlaps the one at \(other.range)")
                }
                if let slot = request.slot, slot == other.slot {
                    throw GuestMemoryError(
                        .overlap, call, .exists, range: range, "slot \(slot) is named twice")
                }
            }
        }
    }

    private static func choose(
        _ capabilities: MemoryCapabilities, _ require: PrivacyLevel
    ) throws(GuestMemoryError) -> (PrivacyLevel, ConversionMethod) {
        let call = "GuestMemory.create(require: \(require))"
        guard let level = capabilities.level, let method = capabilities.method else {
            var why = "this kernel can neither convert the guest memory of a \(capabilities.vmType) VM in place "
            if capabilities.usableDialects.contains(.vmAttributes) {
                why += "(it has VM-wide attributes with two backings, which this library does not use yet) "
            }
            why += "nor keep it shared for life under guard pages (Linux 6.18, VM type default)"
            throw GuestMemoryError(.unsupported, call, .notSupported, why)
        }
        if level < require {
            let missing =
                level == .process
                ? "no dialect of in-place conversion answered on this kernel (none is in a release up to Linux "
                    + "7.3); only this process would be kept out of private pages"
                : "an emulated kernel answers"
            throw GuestMemoryError(
                .levelTooWeak, call, .notSupported,
                "level \(level) is what there is, \(require) was required: \(missing). Pass "
                    + "require: .\(level) to accept it")
        }
        return (level, method)
    }

    /// Binds the slots that were asked for; deletes them again when one fails.
    private func bindSlots() throws(GuestMemoryError) {
        for (index, region) in regions.enumerated() {
            guard let slot = region.slot else { continue }
            let info = info(of: region)
            let result = virtualMachine.bind(
                slot: slot, region.range, guestView: info.guestViewAddress, file: info.descriptor,
                offset: region.fileOffset)
            if let errno = LinuxErrno(result: result) {
                unbindSlots(regions[..<index])
                claims.lock.withLock { shared.value.state = .closed }
                throw GuestMemoryError(
                    errno == .exists ? .overlap : .systemCall,
                    "ioctl(KVM_SET_USER_MEMORY_REGION2, slot \(slot))", errno, range: region.range,
                    errno == .exists
                        ? "the VM already has memory there, or the file's pages are bound already"
                        : "the slot could not be bound: it exists already, its number is too large, or the kernel "
                            + "is older than 6.8 (KVM_CAP_USER_MEMORY2: "
                            + "\(virtualMachine.checkExtension(CGMEM_KVM_CAP_USER_MEMORY2)))")
            }
        }
    }

    func unbindSlots(_ bound: ArraySlice<Region>) {
        for region in bound.reversed() {
            if let slot = region.slot { _ = virtualMachine.unbind(slot: slot) }
        }
    }
}
