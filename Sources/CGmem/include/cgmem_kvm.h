// KVM's device and VM calls around guest_memfd, as of Linux 7.3.4 (include/uapi/linux/kvm.h).
#ifndef CGMEM_KVM_H
#define CGMEM_KVM_H

#include <stdint.h>

#define CGMEM_KVM_API_VERSION 12

// System and VM ioctls that carry a value, or nothing, in the argument itself.
#define CGMEM_KVM_GET_API_VERSION 0xAE00u
#define CGMEM_KVM_CREATE_VM 0xAE01u
#define CGMEM_KVM_CHECK_EXTENSION 0xAE03u
#define CGMEM_KVM_GET_VCPU_MMAP_SIZE 0xAE04u
#define CGMEM_KVM_CREATE_VCPU 0xAE41u
#define CGMEM_KVM_RUN 0xAE80u

// KVM_CREATE_VM types on x86. 0 is the default type of every architecture.
#define CGMEM_KVM_X86_DEFAULT_VM 0
#define CGMEM_KVM_X86_SW_PROTECTED_VM 1
#define CGMEM_KVM_X86_SEV_VM 2
#define CGMEM_KVM_X86_SEV_ES_VM 3
#define CGMEM_KVM_X86_SNP_VM 4
#define CGMEM_KVM_X86_TDX_VM 5

// Capabilities of released kernels. Valid as hints on x86 only: the numbers from 240 on collide with
// other architectures' and with the conversion series' (see cgmem_conversion.h).
#define CGMEM_KVM_CAP_EXIT_HYPERCALL 201
#define CGMEM_KVM_CAP_USER_MEMORY2 231
#define CGMEM_KVM_CAP_MEMORY_FAULT_INFO 232
#define CGMEM_KVM_CAP_MEMORY_ATTRIBUTES 233
#define CGMEM_KVM_CAP_GUEST_MEMFD 234
#define CGMEM_KVM_CAP_VM_TYPES 235
#define CGMEM_KVM_CAP_PRE_FAULT_MEMORY 236
#define CGMEM_KVM_CAP_GUEST_MEMFD_FLAGS 244

// KVM_ENABLE_CAP on a VM descriptor.
#define CGMEM_KVM_ENABLE_CAP 0x4068AEA3u
struct cgmem_kvm_enable_cap {
    uint32_t cap;
    uint32_t flags;
    uint64_t args[4];
    uint8_t pad[64];
};

// KVM_SET_USER_MEMORY_REGION2, Linux 6.8.
#define CGMEM_KVM_SET_USER_MEMORY_REGION2 0x40A0AE49u
struct cgmem_kvm_userspace_memory_region2 {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t guest_memfd_offset;
    uint32_t guest_memfd;
    uint32_t pad1;
    uint64_t pad2[14];
};
#define CGMEM_KVM_MEM_LOG_DIRTY_PAGES (1u << 0)
#define CGMEM_KVM_MEM_READONLY (1u << 1)
#define CGMEM_KVM_MEM_GUEST_MEMFD (1u << 2)

// KVM_CREATE_GUEST_MEMFD, Linux 6.8. The descriptor is not close-on-exec; reserved words are accepted
// silently by 6.18, so they are always zeroed.
#define CGMEM_KVM_CREATE_GUEST_MEMFD 0xC040AED4u
struct cgmem_kvm_create_guest_memfd {
    uint64_t size;
    uint64_t flags;
    uint64_t reserved[6];
};
// Flags of mainline, Linux 6.18.
#define CGMEM_GUEST_MEMFD_FLAG_MMAP (1ull << 0)
#define CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED (1ull << 1)
// Flags of dialect 1 (RFC v2, May 2025): bit 1 has the opposite meaning there.
#define CGMEM_GUEST_MEMFD_RFC_FLAG_SUPPORT_SHARED (1ull << 0)
#define CGMEM_GUEST_MEMFD_RFC_FLAG_INIT_PRIVATE (1ull << 1)
#define CGMEM_GUEST_MEMFD_RFC_FLAG_HUGETLB (1ull << 2)
#define CGMEM_GUEST_MEMFD_RFC_HUGETLB_SHIFT 58
#define CGMEM_GUEST_MEMFD_RFC_HUGETLB_MASK 0x3full
#define CGMEM_GUEST_MEMFD_RFC_HUGETLB_2MB (21ull << 58)
#define CGMEM_GUEST_MEMFD_RFC_HUGETLB_1GB (30ull << 58)

// KVM_PRE_FAULT_MEMORY on a vCPU descriptor, Linux 6.11. gpa and size are updated to what is left.
#define CGMEM_KVM_PRE_FAULT_MEMORY 0xC040AED5u
struct cgmem_kvm_pre_fault_memory {
    uint64_t gpa;
    uint64_t size;
    uint64_t flags;
    uint64_t padding[5];
};

#endif
