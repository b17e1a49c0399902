// Pins the own-named structures and numbers of include/ to the kernel's: first to the layout that the
// kernel's source gives, then to the header of this build machine for as much as it knows.
#define _GNU_SOURCE
#include "include/CGmem.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>

#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type " size")
#define AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define SAME(ours, theirs) _Static_assert((ours) == (theirs), #ours " is not " #theirs)
#define SAME_STRUCT(ours, theirs) _Static_assert(sizeof(struct ours) == sizeof(struct theirs), #ours)
#define SAME_FIELD(ours, theirs, field) \
    _Static_assert(offsetof(struct ours, field) == offsetof(struct theirs, field), #ours "." #field)

SIZE(cgmem_kvm_enable_cap, 104);
AT(cgmem_kvm_enable_cap, args, 8);
SIZE(cgmem_kvm_userspace_memory_region2, 160);
AT(cgmem_kvm_userspace_memory_region2, guest_phys_addr, 8);
AT(cgmem_kvm_userspace_memory_region2, memory_size, 16);
AT(cgmem_kvm_userspace_memory_region2, userspace_addr, 24);
AT(cgmem_kvm_userspace_memory_region2, guest_memfd_offset, 32);
AT(cgmem_kvm_userspace_memory_region2, guest_memfd, 40);
AT(cgmem_kvm_userspace_memory_region2, pad2, 48);
SIZE(cgmem_kvm_create_guest_memfd, 64);
AT(cgmem_kvm_create_guest_memfd, flags, 8);
AT(cgmem_kvm_create_guest_memfd, reserved, 16);
SIZE(cgmem_kvm_pre_fault_memory, 64);
AT(cgmem_kvm_pre_fault_memory, flags, 16);

SIZE(cgmem_kvm_memory_attributes, 32);
AT(cgmem_kvm_memory_attributes, attributes, 16);
AT(cgmem_kvm_memory_attributes, flags, 24);
SIZE(cgmem_kvm_gmem_convert, 64);
AT(cgmem_kvm_gmem_convert, error_offset, 16);
AT(cgmem_kvm_gmem_convert, reserved, 24);
SIZE(cgmem_kvm_memory_attributes2_rfc1, 64);
AT(cgmem_kvm_memory_attributes2_rfc1, attributes, 16);
AT(cgmem_kvm_memory_attributes2_rfc1, flags, 24);
AT(cgmem_kvm_memory_attributes2_rfc1, error_offset, 32);
SIZE(cgmem_kvm_memory_attributes2, 128);
AT(cgmem_kvm_memory_attributes2, attributes, 16);
AT(cgmem_kvm_memory_attributes2, flags, 24);
AT(cgmem_kvm_memory_attributes2, error_offset, 32);
AT(cgmem_kvm_memory_attributes2, reserved, 40);

AT(cgmem_kvm_run, immediate_exit, 1);
AT(cgmem_kvm_run, exit_reason, 8);
AT(cgmem_kvm_run, hypercall, 32);
AT(cgmem_kvm_run, hypercall.args, 40);
AT(cgmem_kvm_run, hypercall.ret, 88);
AT(cgmem_kvm_run, hypercall.flags, 96);
AT(cgmem_kvm_run, memory_fault, 32);
AT(cgmem_kvm_run, memory_fault.size, 48);

// The numbers are what the _IO macros make of magic, number, size and direction.
SAME(CGMEM_KVM_ENABLE_CAP, _IOW(0xAE, 0xa3, struct cgmem_kvm_enable_cap));
SAME(CGMEM_KVM_SET_USER_MEMORY_REGION2, _IOW(0xAE, 0x49, struct cgmem_kvm_userspace_memory_region2));
SAME(CGMEM_KVM_CREATE_GUEST_MEMFD, _IOWR(0xAE, 0xd4, struct cgmem_kvm_create_guest_memfd));
SAME(CGMEM_KVM_PRE_FAULT_MEMORY, _IOWR(0xAE, 0xd5, struct cgmem_kvm_pre_fault_memory));
SAME(CGMEM_KVM_SET_MEMORY_ATTRIBUTES, _IOW(0xAE, 0xd2, struct cgmem_kvm_memory_attributes));
SAME(CGMEM_KVM_GMEM_CONVERT_SHARED, _IOWR(0xAF, 0x41, struct cgmem_kvm_gmem_convert));
SAME(CGMEM_KVM_GMEM_CONVERT_PRIVATE, _IOWR(0xAF, 0x42, struct cgmem_kvm_gmem_convert));
SAME(CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_RFC1, _IOWR(0xAE, 0xd6, struct cgmem_kvm_memory_attributes2_rfc1));
SAME(CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, _IOWR(0xAE, 0xd2, struct cgmem_kvm_memory_attributes2));

// What even Linux 6.1's header knows.
SAME(CGMEM_KVM_API_VERSION, KVM_API_VERSION);
SAME(CGMEM_KVM_GET_API_VERSION, KVM_GET_API_VERSION);
SAME(CGMEM_KVM_CREATE_VM, KVM_CREATE_VM);
SAME(CGMEM_KVM_CHECK_EXTENSION, KVM_CHECK_EXTENSION);
SAME(CGMEM_KVM_GET_VCPU_MMAP_SIZE, KVM_GET_VCPU_MMAP_SIZE);
SAME(CGMEM_KVM_CREATE_VCPU, KVM_CREATE_VCPU);
SAME(CGMEM_KVM_RUN, KVM_RUN);
SAME(CGMEM_KVM_ENABLE_CAP, KVM_ENABLE_CAP);
SAME_STRUCT(cgmem_kvm_enable_cap, kvm_enable_cap);
SAME(CGMEM_KVM_CAP_EXIT_HYPERCALL, KVM_CAP_EXIT_HYPERCALL);
SAME(CGMEM_KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
SAME(CGMEM_KVM_MEM_READONLY, KVM_MEM_READONLY);
SAME(CGMEM_KVM_EXIT_IO, KVM_EXIT_IO);
SAME(CGMEM_KVM_EXIT_HYPERCALL, KVM_EXIT_HYPERCALL);
SAME(CGMEM_KVM_EXIT_HLT, KVM_EXIT_HLT);
SAME(CGMEM_KVM_EXIT_MMIO, KVM_EXIT_MMIO);
SAME(CGMEM_KVM_EXIT_SHUTDOWN, KVM_EXIT_SHUTDOWN);
SAME(CGMEM_KVM_EXIT_FAIL_ENTRY, KVM_EXIT_FAIL_ENTRY);
SAME(CGMEM_KVM_EXIT_INTR, KVM_EXIT_INTR);
SAME(CGMEM_KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTERNAL_ERROR);
SAME(CGMEM_KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_SYSTEM_EVENT);
SAME_FIELD(cgmem_kvm_run, kvm_run, immediate_exit);
SAME_FIELD(cgmem_kvm_run, kvm_run, exit_reason);
SAME_FIELD(cgmem_kvm_run, kvm_run, hypercall);
SAME_FIELD(cgmem_kvm_run, kvm_run, hypercall.args);
SAME_FIELD(cgmem_kvm_run, kvm_run, hypercall.ret);
SAME_FIELD(cgmem_kvm_run, kvm_run, io.data_offset);

// Linux 6.8 and newer headers.
#ifdef KVM_CREATE_GUEST_MEMFD
SAME(CGMEM_KVM_CREATE_GUEST_MEMFD, KVM_CREATE_GUEST_MEMFD);
SAME(CGMEM_KVM_SET_USER_MEMORY_REGION2, KVM_SET_USER_MEMORY_REGION2);
SAME(CGMEM_KVM_SET_MEMORY_ATTRIBUTES, KVM_SET_MEMORY_ATTRIBUTES);
SAME(CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
SAME(CGMEM_KVM_MEM_GUEST_MEMFD, KVM_MEM_GUEST_MEMFD);
SAME(CGMEM_KVM_CAP_USER_MEMORY2, KVM_CAP_USER_MEMORY2);
SAME(CGMEM_KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_MEMORY_FAULT_INFO);
SAME(CGMEM_KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_MEMORY_ATTRIBUTES);
SAME(CGMEM_KVM_CAP_GUEST_MEMFD, KVM_CAP_GUEST_MEMFD);
SAME(CGMEM_KVM_CAP_VM_TYPES, KVM_CAP_VM_TYPES);
SAME(CGMEM_KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MEMORY_FAULT);
SAME_STRUCT(cgmem_kvm_userspace_memory_region2, kvm_userspace_memory_region2);
SAME_FIELD(cgmem_kvm_userspace_memory_region2, kvm_userspace_memory_region2, guest_memfd_offset);
SAME_FIELD(cgmem_kvm_userspace_memory_region2, kvm_userspace_memory_region2, guest_memfd);
SAME_FIELD(cgmem_kvm_run, kvm_run, memory_fault.gpa);
#endif
#ifdef KVM_PRE_FAULT_MEMORY
SAME(CGMEM_KVM_PRE_FAULT_MEMORY, KVM_PRE_FAULT_MEMORY);
SAME(CGMEM_KVM_CAP_PRE_FAULT_MEMORY, KVM_CAP_PRE_FAULT_MEMORY);
#endif
#ifdef GUEST_MEMFD_FLAG_INIT_SHARED
SAME(CGMEM_GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_MMAP);
SAME(CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_INIT_SHARED);
SAME(CGMEM_KVM_CAP_GUEST_MEMFD_FLAGS, KVM_CAP_GUEST_MEMFD_FLAGS);
#endif
#ifdef KVM_SET_MEMORY_ATTRIBUTES2
SAME(CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, KVM_SET_MEMORY_ATTRIBUTES2);
SAME_STRUCT(cgmem_kvm_memory_attributes2, kvm_memory_attributes2);
SAME_FIELD(cgmem_kvm_memory_attributes2, kvm_memory_attributes2, error_offset);
#endif

SAME(CGMEM_UFFD_API, UFFD_API);
SAME(CGMEM_UFFD_USER_MODE_ONLY, UFFD_USER_MODE_ONLY);
SAME(CGMEM_UFFD_FEATURE_MISSING_SHMEM, UFFD_FEATURE_MISSING_SHMEM);
SAME(CGMEM_UFFD_FEATURE_SIGBUS, UFFD_FEATURE_SIGBUS);
SAME(CGMEM_UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_MINOR_SHMEM);
SAME(CGMEM_UFFDIO_API, UFFDIO_API);
SAME(CGMEM_UFFDIO_REGISTER, UFFDIO_REGISTER);
SAME(CGMEM_UFFDIO_UNREGISTER, UFFDIO_UNREGISTER);
SAME(CGMEM_UFFDIO_ZEROPAGE, UFFDIO_ZEROPAGE);
SAME(CGMEM_UFFDIO_CONTINUE, UFFDIO_CONTINUE);
SAME(CGMEM_UFFDIO_REGISTER_MODE_MINOR, UFFDIO_REGISTER_MODE_MINOR);
SAME_STRUCT(cgmem_uffdio_api, uffdio_api);
SAME_STRUCT(cgmem_uffdio_register, uffdio_register);
SAME_STRUCT(cgmem_uffdio_zeropage, uffdio_zeropage);
SAME_STRUCT(cgmem_uffdio_continue, uffdio_continue);

SAME(CGMEM_PROT_READ | CGMEM_PROT_WRITE | CGMEM_PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC);
SAME(CGMEM_MAP_SHARED, MAP_SHARED);
SAME(CGMEM_MAP_PRIVATE, MAP_PRIVATE);
SAME(CGMEM_MAP_FIXED, MAP_FIXED);
SAME(CGMEM_MAP_ANONYMOUS, MAP_ANONYMOUS);
SAME(CGMEM_MAP_NORESERVE, MAP_NORESERVE);
SAME(CGMEM_MADV_DONTNEED, MADV_DONTNEED);
SAME(CGMEM_MADV_REMOVE, MADV_REMOVE);
SAME(CGMEM_MADV_DONTFORK, MADV_DONTFORK);
SAME(CGMEM_MADV_HUGEPAGE, MADV_HUGEPAGE);
SAME(CGMEM_MADV_DONTDUMP, MADV_DONTDUMP);
SAME(CGMEM_MADV_WIPEONFORK, MADV_WIPEONFORK);
SAME(CGMEM_MADV_POPULATE_READ, MADV_POPULATE_READ);
SAME(CGMEM_MADV_POPULATE_WRITE, MADV_POPULATE_WRITE);
SAME(CGMEM_MADV_DOFORK, MADV_DOFORK);
SAME(CGMEM_MADV_DODUMP, MADV_DODUMP);
SAME(CGMEM_MADV_COLD, MADV_COLD);
SAME(CGMEM_MADV_PAGEOUT, MADV_PAGEOUT);
#ifdef MADV_DONTNEED_LOCKED
SAME(CGMEM_MADV_DONTNEED_LOCKED, MADV_DONTNEED_LOCKED);
#endif
SAME(CGMEM_MFD_CLOEXEC, MFD_CLOEXEC);
SAME(CGMEM_MAP_TYPE, MAP_TYPE);
SAME(CGMEM_MAP_SHARED_VALIDATE, MAP_SHARED_VALIDATE);
SAME(CGMEM_MAP_LOCKED, MAP_LOCKED);
SAME(CGMEM_MAP_POPULATE, MAP_POPULATE);
SAME(CGMEM_UFFDIO_CONTINUE_MODE_DONTWAKE, UFFDIO_CONTINUE_MODE_DONTWAKE);
#ifdef MADV_GUARD_INSTALL
SAME(CGMEM_MADV_GUARD_INSTALL, MADV_GUARD_INSTALL);
SAME(CGMEM_MADV_GUARD_REMOVE, MADV_GUARD_REMOVE);
#endif
SAME(CGMEM_FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE);
SAME(CGMEM_FALLOC_FL_PUNCH_HOLE, FALLOC_FL_PUNCH_HOLE);
SAME(CGMEM_O_RDONLY, O_RDONLY);
SAME(CGMEM_O_RDWR, O_RDWR);
SAME(CGMEM_O_CLOEXEC, O_CLOEXEC);
SAME(CGMEM_S_IFMT, S_IFMT);
SAME(CGMEM_S_IFREG, S_IFREG);
SAME(CGMEM_SEEK_DATA, SEEK_DATA);
SAME(CGMEM_SEEK_HOLE, SEEK_HOLE);

// The numbers Errno.swift spells out.
SAME(1, EPERM); SAME(2, ENOENT); SAME(4, EINTR); SAME(5, EIO); SAME(6, ENXIO); SAME(7, E2BIG);
SAME(9, EBADF); SAME(11, EAGAIN); SAME(12, ENOMEM); SAME(13, EACCES); SAME(14, EFAULT);
SAME(16, EBUSY); SAME(17, EEXIST); SAME(19, ENODEV); SAME(22, EINVAL); SAME(23, ENFILE); SAME(24, EMFILE);
SAME(25, ENOTTY); SAME(27, EFBIG); SAME(28, ENOSPC); SAME(29, ESPIPE); SAME(32, EPIPE);
SAME(35, EDEADLK); SAME(38, ENOSYS); SAME(61, ENODATA); SAME(75, EOVERFLOW); SAME(95, EOPNOTSUPP);
SAME(110, ETIMEDOUT); SAME(125, ECANCELED); SAME(133, EHWPOISON);
