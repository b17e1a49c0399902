import CGmem

/// One way a kernel offers to convert guest memory between shared and private.
///
/// A dialect turns one conversion into one system call and says what its answers mean. Which dialect a
/// kernel speaks is found by behaviour (`MemoryCapabilities`), never by version or capability number.
public enum ConversionDialect: UInt8, BitwiseCopyable, Equatable, Sendable, CaseIterable {
    /// `KVM_SET_MEMORY_ATTRIBUTES2` on the guest_memfd: conversion series RFC v2 to v8, linux-next of
    /// September 2026. In no release up to Linux 7.3.
    case attributes2
    /// `KVM_SET_MEMORY_ATTRIBUTES2` as of RFC v1 (October 2025): another number, 64 bytes.
    case attributes2RFC1
    /// `KVM_GMEM_CONVERT_SHARED` / `_PRIVATE` on the guest_memfd: RFC v2 "1G page support", May 2025.
    case convert
    /// `KVM_SET_MEMORY_ATTRIBUTES` on the VM, by guest-physical address: Linux 6.8 and newer, x86. Two
    /// backings instead of one converted in place.
    case vmAttributes

    /// The short name of `docs/`: 2b, 2a, 1 or L.
    public var label: StaticString {
        switch self {
        case .attributes2: "2b"
        case .attributes2RFC1: "2a"
        case .convert: "1"
        case .vmAttributes: "L"
        }
    }

    /// The call's name as the kernel spells it.
    public func call(to state: Shareability) -> StaticString {
        switch self {
        case .attributes2: "KVM_SET_MEMORY_ATTRIBUTES2"
        case .attributes2RFC1: "KVM_SET_MEMORY_ATTRIBUTES2 (RFC v1)"
        case .convert: state == .shared ? "KVM_GMEM_CONVERT_SHARED" : "KVM_GMEM_CONVERT_PRIVATE"
        case .vmAttributes: "KVM_SET_MEMORY_ATTRIBUTES"
        }
    }

    /// Whether one backing serves both states. The other way is two backings and a choice between them.
    public var isInPlace: Bool { self != .vmAttributes }

    /// Whether a holder of a page can make the conversion fail with EAGAIN. RFC v1 of the attributes
    /// tests reference counts in both directions, the others only on the way to private; VM-wide
    /// attributes never do.
    public func canBeBusy(to state: Shareability) -> Bool {
        switch self {
        case .attributes2, .convert: state == .private
        case .attributes2RFC1: true
        case .vmAttributes: false
        }
    }

    /// What the call answers to a size of 0 where it exists: dialect 1 does nothing, the others refuse.
    var answerToSizeZero: Int { self == .convert ? 0 : LinuxErrno.invalid.result }

    /// Makes the call. `offset` counts bytes from the start of the guest_memfd, for `vmAttributes` from
    /// guest-physical 0; `descriptor` is the guest_memfd, for `vmAttributes` the VM.
    ///
    /// The structure is built anew for every attempt: dialect 1 and RFC v2 to v4 of the attributes
    /// answer EINVAL when the last failure's `error_offset` is still in it.
    @inline(__always)
    package func convert(
        _ descriptor: Int32, offset: UInt64, size: UInt64, to state: Shareability,
        on system: any SystemCalls
    ) -> ConversionAnswer {
        let attributes: UInt64 = state == .private ? CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE : 0
        switch self {
        case .attributes2:
            var request = cgmem_kvm_memory_attributes2()
            request.offset = offset
            request.size = size
            request.attributes = attributes
            let result = ioctl(system, descriptor, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, &request)
            return ConversionAnswer(result: result, errorOffset: request.error_offset)
        case .attributes2RFC1:
            var request = cgmem_kvm_memory_attributes2_rfc1()
            request.offset = offset
            request.size = size
            request.attributes = attributes
            let result = ioctl(system, descriptor, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_RFC1, &request)
            return ConversionAnswer(result: result, errorOffset: request.error_offset)
        case .convert:
            var request = cgmem_kvm_gmem_convert()
            request.offset = offset
            request.size = size
            let number = state == .shared ? CGMEM_KVM_GMEM_CONVERT_SHARED : CGMEM_KVM_GMEM_CONVERT_PRIVATE
            let result = ioctl(system, descriptor, number, &request)
            return ConversionAnswer(result: result, errorOffset: request.error_offset)
        case .vmAttributes:
            var request = cgmem_kvm_memory_attributes()
            request.address = offset
            request.size = size
            request.attributes = attributes
            let result = ioctl(system, descriptor, CGMEM_KVM_SET_MEMORY_ATTRIBUTES, &request)
            return ConversionAnswer(result: result, errorOffset: offset)
        }
    }
}

/// What a kernel answered to one conversion.
package struct ConversionAnswer {
    /// 0 or -errno.
    package var result: Int
    /// As the kernel left it: bytes from the start of the file. Means something on EAGAIN only; in
    /// dialect 1 it is the head of the busy folio, which may lie before the request.
    package var errorOffset: UInt64
}
