// userfaultfd, what the emulated kernel keeps the host out of private pages with.
// MINOR faults on shmem: Linux 5.14. UFFD_FEATURE_SIGBUS: 4.14. UFFD_USER_MODE_ONLY: 5.11.
#ifndef CGMEM_USERFAULTFD_H
#define CGMEM_USERFAULTFD_H

#include <stdint.h>

#define CGMEM_UFFD_API 0xAAull
#define CGMEM_UFFD_USER_MODE_ONLY 1
#define CGMEM_UFFD_FEATURE_MISSING_SHMEM (1ull << 5)
#define CGMEM_UFFD_FEATURE_SIGBUS (1ull << 7)
#define CGMEM_UFFD_FEATURE_MINOR_SHMEM (1ull << 10)

struct cgmem_uffdio_range {
    uint64_t start;
    uint64_t len;
};

#define CGMEM_UFFDIO_API 0xC018AA3Fu
struct cgmem_uffdio_api {
    uint64_t api;
    uint64_t features;
    uint64_t ioctls;
};

#define CGMEM_UFFDIO_REGISTER 0xC020AA00u
#define CGMEM_UFFDIO_REGISTER_MODE_MISSING (1ull << 0)
#define CGMEM_UFFDIO_REGISTER_MODE_WP (1ull << 1)
#define CGMEM_UFFDIO_REGISTER_MODE_MINOR (1ull << 2)
struct cgmem_uffdio_register {
    struct cgmem_uffdio_range range;
    uint64_t mode;
    uint64_t ioctls;
};

#define CGMEM_UFFDIO_UNREGISTER 0x8010AA01u

#define CGMEM_UFFDIO_ZEROPAGE 0xC020AA04u
struct cgmem_uffdio_zeropage {
    struct cgmem_uffdio_range range;
    uint64_t mode;
    int64_t zeropage;
};

#define CGMEM_UFFDIO_CONTINUE 0xC020AA07u
struct cgmem_uffdio_continue {
    struct cgmem_uffdio_range range;
    uint64_t mode;
    int64_t mapped;
};

#endif
