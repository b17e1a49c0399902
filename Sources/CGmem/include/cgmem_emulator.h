// What only the emulated kernel calls.
#ifndef CGMEM_EMULATOR_H
#define CGMEM_EMULATOR_H

#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cgmem_syscalls.h"

#define CGMEM_MFD_CLOEXEC 1u
#define CGMEM_MAP_TYPE 0x0f
#define CGMEM_MAP_SHARED_VALIDATE 0x03
#define CGMEM_MAP_LOCKED 0x2000
#define CGMEM_MAP_POPULATE 0x8000
#define CGMEM_MADV_DOFORK 11
#define CGMEM_MADV_DODUMP 17
#define CGMEM_MADV_COLD 20
#define CGMEM_MADV_PAGEOUT 21
#define CGMEM_MADV_DONTNEED_LOCKED 24   // Linux 5.18
#define CGMEM_UFFDIO_CONTINUE_MODE_DONTWAKE (1ull << 0)

// A descriptor that stands for a file of the emulated kernel. An epoll instance, because of all
// descriptors that cost nothing it answers raw calls most like a guest_memfd does: read, write,
// ftruncate and fsync EINVAL, reopening through /proc/self/fd ENXIO. Memory is never behind it.
static inline long cgmem_placeholder_create(int close_on_exec) {
    return cgmem_result(epoll_create1(close_on_exec ? EPOLL_CLOEXEC : 0));
}

static inline long cgmem_pwrite(int fd, const void *buffer, size_t count, int64_t offset) {
    return cgmem_result(pwrite(fd, buffer, count, offset));
}

#endif
