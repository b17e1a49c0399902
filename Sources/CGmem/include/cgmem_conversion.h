// The calls that convert guest memory between shared and private, one block a dialect.
// Only dialect L is in a released kernel (Linux 6.8 to 7.3.4, x86).
#ifndef CGMEM_CONVERSION_H
#define CGMEM_CONVERSION_H

#include <stdint.h>

#define CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE (1ull << 3)

// Dialect L: VM-wide attributes, on the VM descriptor, by guest-physical address.
#define CGMEM_KVM_SET_MEMORY_ATTRIBUTES 0x4020AED2u
struct cgmem_kvm_memory_attributes {
    uint64_t address;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
};

// Dialect 1: RFC v2 "1G page support" series, May 2025. On the guest_memfd descriptor, by file offset.
// error_offset must be 0 on entry: the last failure's value left in place is answered with EINVAL.
#define CGMEM_KVM_GMEM_CONVERT_SHARED 0xC040AF41u
#define CGMEM_KVM_GMEM_CONVERT_PRIVATE 0xC040AF42u
struct cgmem_kvm_gmem_convert {
    uint64_t offset;
    uint64_t size;
    uint64_t error_offset;
    uint64_t reserved[5];
};
#define CGMEM_KVM_CAP_RFC_GMEM_SHARED_MEM 240
#define CGMEM_KVM_CAP_RFC_GMEM_CONVERSION 241
#define CGMEM_KVM_CAP_RFC_GMEM_HUGETLB 242

// Dialect 2a: in-place conversion RFC v1, October 2025. 64 bytes, number 0xd6.
#define CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_RFC1 0xC040AED6u
struct cgmem_kvm_memory_attributes2_rfc1 {
    uint64_t offset;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
    uint64_t error_offset;
    uint64_t reserved[3];
};

// Dialect 2b: in-place conversion RFC v2 to v8 and linux-next of September 2026. 128 bytes, number 0xd2.
#define CGMEM_KVM_SET_MEMORY_ATTRIBUTES2 0xC080AED2u
struct cgmem_kvm_memory_attributes2 {
    uint64_t offset;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
    uint64_t error_offset;
    uint64_t reserved[11];
};
// Content flags of v3 to v5, gone since v6, where flags must be 0.
#define CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_ZERO (1ull << 0)
#define CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE (1ull << 1)

// KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES moved with every version: a hint at best.
#define CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_RFC1 246
#define CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_RFC2 248
#define CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_V3 249
#define CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_V8 250
#define CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_NEXT 252
// KVM_CAP_MEMORY_ATTRIBUTES2 (the VM descriptor takes the call too) and its content flags, RFC v1 to v4.
#define CGMEM_KVM_CAP_MEMORY_ATTRIBUTES2_RFC1 245
#define CGMEM_KVM_CAP_MEMORY_ATTRIBUTES2_RFC2 247
#define CGMEM_KVM_CAP_MEMORY_ATTRIBUTES2_V3 248
#define CGMEM_KVM_CAP_MEMORY_ATTRIBUTES2_FLAGS_V4 250

#endif
