import CGmem

/// Requests on a guest_memfd descriptor: the conversion calls, one dialect after the other, each with
/// its own order of checks.
extension EmulatedKernel {
    func fileRequest(_ file: EmulatedFile, _ request: UInt32, _ argument: UInt) -> Int {
        switch request {
        case CGMEM_KVM_GMEM_CONVERT_SHARED where configuration.dialects.contains(.convert):
            convert(file, to: .shared, argument)
        case CGMEM_KVM_GMEM_CONVERT_PRIVATE where configuration.dialects.contains(.convert):
            convert(file, to: .private, argument)
        case CGMEM_KVM_SET_MEMORY_ATTRIBUTES2 where convertsByAttributes:
            setAttributes(file, argument)
        default:
            LinuxErrno.notTTY.result
        }
    }

    /// Dialect 1 (RFC v2, patch 4 of 51).
    private func convert(_ file: EmulatedFile, to state: Shareability, _ argument: UInt) -> Int {
        counting.withLock { $0.conversionCalls += 1 }
        guard let asked = copyIn(argument, cgmem_kvm_gmem_convert.self) else {
            return LinuxErrno.badAddress.result
        }
        if asked.error_offset != 0 { return LinuxErrno.invalid.result }
        if asked.size == 0 { return 0 }
        guard let pages = pages(asked.offset, asked.size, of: file) else { return LinuxErrno.invalid.result }
        switch finish(file.convert(pages, to: state, skipsSettled: true)) {
        case .unchanged, .done:
            return 0
        case .busy(let page):
            // The head of the folio that is held, wherever the request started. Folios are single pages.
            copyOut(UInt64(page * pageSize), argument, errorOffset: 16)
            return LinuxErrno.again.result
        case .noMemory:
            // The index is copied out though nobody set it: whoever believes it shall notice.
            copyOut(0x5a5a_5a5a_5a5a_5000, argument, errorOffset: 16)
            return LinuxErrno.noMemory.result
        }
    }

    /// Dialect 2b (v8 and linux-next).
    private func setAttributes(_ file: EmulatedFile, _ argument: UInt) -> Int {
        counting.withLock { $0.conversionCalls += 1 }
        let invalid = LinuxErrno.invalid.result
        guard let asked = copyIn(argument, cgmem_kvm_memory_attributes2.self) else {
            return LinuxErrno.badAddress.result
        }
        if asked.flags != 0 { return invalid }
        let r = asked.reserved
        if r.0 | r.1 | r.2 | r.3 | r.4 | r.5 | r.6 | r.7 | r.8 | r.9 | r.10 != 0 { return invalid }
        if !file.vm.hasPrivateMemory { return invalid }
        if asked.attributes & ~CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE != 0 { return invalid }
        if asked.size == 0 { return invalid }
        guard let pages = pages(asked.offset, asked.size, of: file) else { return invalid }
        let state: Shareability = asked.attributes == 0 ? .shared : .private
        switch finish(file.convert(pages, to: state, skipsSettled: false)) {
        case .unchanged, .done:
            return 0
        case .busy(let page):
            copyOut(max(asked.offset, UInt64(page * pageSize)), argument, errorOffset: 32)
            return LinuxErrno.again.result
        case .noMemory:
            copyOut(asked.offset, argument, errorOffset: 32)
            return LinuxErrno.noMemory.result
        }
    }

    /// The pages of a request that is not empty; nil (EINVAL, whichever it is) when it wraps, is not
    /// aligned or not all in the file.
    private func pages(_ offset: UInt64, _ size: UInt64, of file: EmulatedFile) -> PageRange? {
        let (end, overflow) = offset.addingReportingOverflow(size)
        if overflow || end > UInt64(file.size) || (offset | size) & UInt64(pageSize - 1) != 0 { return nil }
        return PageRange(start: Int(offset) / pageSize, count: Int(size) / pageSize)
    }

    private func finish(_ conversion: EmulatedFile.Conversion) -> EmulatedFile.Conversion {
        switch conversion {
        case .unchanged: break
        case .done: counting.withLock { $0.conversions += 1 }
        case .busy: counting.withLock { $0.conversionsRefused += 1 }
        case .noMemory(let mapLimit): if mapLimit { counting.withLock { $0.mapLimitHits += 1 } }
        }
        return conversion
    }

    /// A scripted fault's answer to an ioctl.
    func answer(_ fault: ScriptedFault, _ request: UInt32, _ argument: UInt) -> Int {
        let isConvert = request == CGMEM_KVM_GMEM_CONVERT_SHARED || request == CGMEM_KVM_GMEM_CONVERT_PRIVATE
        if isConvert || request == CGMEM_KVM_SET_MEMORY_ATTRIBUTES2 {
            counting.withLock { $0.conversionCalls += 1 }
            if let offset = fault.errorOffset { copyOut(offset, argument, errorOffset: isConvert ? 16 : 32) }
        }
        return fault.errno.result
    }

    private func copyOut(_ value: UInt64, _ argument: UInt, errorOffset: Int) {
        guard let pointer = unsafe UnsafeMutableRawPointer(bitPattern: argument) else { return }
        // SAFETY: the caller of an ioctl vouches for what it points to, as it does to the kernel.
        unsafe withUnsafeBytes(of: value) { bytes in
            unsafe (pointer + errorOffset).copyMemory(from: bytes.baseAddress!, byteCount: 8)
        }
    }
}
