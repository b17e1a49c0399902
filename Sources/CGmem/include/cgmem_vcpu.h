// What a vCPU's shared page (struct kvm_run) says about memory. x86 and arm64 layout.
#ifndef CGMEM_VCPU_H
#define CGMEM_VCPU_H

#include <stdint.h>

#define CGMEM_KVM_EXIT_IO 2
#define CGMEM_KVM_EXIT_HYPERCALL 3
#define CGMEM_KVM_EXIT_HLT 5
#define CGMEM_KVM_EXIT_MMIO 6
#define CGMEM_KVM_EXIT_SHUTDOWN 8
#define CGMEM_KVM_EXIT_FAIL_ENTRY 9
#define CGMEM_KVM_EXIT_INTR 10
#define CGMEM_KVM_EXIT_INTERNAL_ERROR 17
#define CGMEM_KVM_EXIT_SYSTEM_EVENT 24
#define CGMEM_KVM_EXIT_MEMORY_FAULT 39
#define CGMEM_KVM_EXIT_TDX 40
#define CGMEM_KVM_EXIT_SNP_REQ_CERTS 43

// KVM_EXIT_HYPERCALL, enabled by KVM_CAP_EXIT_HYPERCALL with bit KVM_HC_MAP_GPA_RANGE.
#define CGMEM_KVM_HC_MAP_GPA_RANGE 12
#define CGMEM_KVM_MAP_GPA_RANGE_PAGE_SIZE_MASK 0xfull
#define CGMEM_KVM_MAP_GPA_RANGE_ENCRYPTED (1ull << 4)
#define CGMEM_KVM_EXIT_HYPERCALL_LONG_MODE (1ull << 0)
struct cgmem_kvm_exit_hypercall {
    uint64_t nr;
    uint64_t args[6];
    uint64_t ret;
    union {
        uint32_t longmode;
        uint64_t flags;
    };
};

// KVM_EXIT_MEMORY_FAULT, Linux 6.8: comes with KVM_RUN = -1 and EFAULT or EHWPOISON.
#define CGMEM_KVM_MEMORY_EXIT_FLAG_PRIVATE (1ull << 3)
struct cgmem_kvm_exit_memory_fault {
    uint64_t flags;
    uint64_t gpa;
    uint64_t size;
};

// KVM_EXIT_TDX, Linux 6.16. Never used for MapGPA, which is KVM_EXIT_HYPERCALL.
struct cgmem_kvm_exit_tdx {
    uint64_t flags;
    uint64_t nr;
};

// KVM_EXIT_SNP_REQ_CERTS: unrelated to conversion. ret 0, ENOSPC (npages out), EAGAIN or EIO.
struct cgmem_kvm_exit_snp_req_certs {
    uint64_t gpa;
    uint64_t npages;
    uint64_t ret;
};

struct cgmem_kvm_exit_io {
    uint8_t direction;
    uint8_t size;
    uint16_t port;
    uint32_t count;
    uint64_t data_offset;
};

struct cgmem_kvm_run {
    uint8_t request_interrupt_window;
    uint8_t immediate_exit;
    uint8_t padding1[6];
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection;
    uint8_t if_flag;
    uint16_t flags;
    uint64_t cr8;
    uint64_t apic_base;
    union {
        struct cgmem_kvm_exit_hypercall hypercall;
        struct cgmem_kvm_exit_memory_fault memory_fault;
        struct cgmem_kvm_exit_tdx tdx;
        struct cgmem_kvm_exit_snp_req_certs snp_req_certs;
        struct cgmem_kvm_exit_io io;
        uint8_t padding[256];
    };
};

#endif
