// One inline function per system call. Each returns a value, or -errno; errno itself is left as the
// call left it and is read by nobody. Through libc, not syscall(2), so that sanitizers see the calls.
#ifndef CGMEM_SYSCALLS_H
#define CGMEM_SYSCALLS_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cgmem_memory.h"

// libc's memory functions under names of our own: Swift sees them only through Glibc, which Embedded lacks.
static inline void cgmem_copy(void *to, const void *from, size_t count) { memcpy(to, from, count); }
static inline _Bool cgmem_differs(const void *a, const void *b, size_t count) { return memcmp(a, b, count) != 0; }

static inline void cgmem_zero(void *to, size_t count) { memset(to, 0, count); }
// Whether all of the bytes are 0. By libc's memcmp with a page of zeros, which is as fast as memory.
static inline _Bool cgmem_is_zero(const void *bytes, size_t count) {
    static const char zeros[4096];
    const char *at = (const char *)bytes;
    for (; count > sizeof zeros; at += sizeof zeros, count -= sizeof zeros)
        if (memcmp(at, zeros, sizeof zeros) != 0)
            return 0;
    return memcmp(at, zeros, count) == 0;
}

static inline long cgmem_result(long value) { return value < 0 ? -(long)errno : value; }

static inline long cgmem_open(const char *path, int flags) { return cgmem_result(open(path, flags)); }

static inline long cgmem_close(int fd) { return cgmem_result(close(fd)); }

// The copy is close-on-exec, whatever the original is.
static inline long cgmem_dup(int fd) { return cgmem_result(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

static inline long cgmem_set_close_on_exec(int fd) { return cgmem_result(fcntl(fd, F_SETFD, FD_CLOEXEC)); }

// argument is a pointer for most requests and a plain value for some, as in the kernel.
static inline long cgmem_ioctl(int fd, unsigned long request, unsigned long argument) {
    return cgmem_result(ioctl(fd, request, argument));
}

// Returns the address, which user space sees as positive, or -errno.
static inline long cgmem_mmap(unsigned long address, size_t length, int protection, int flags, int fd,
                              int64_t offset) {
    void *mapped = mmap((void *)address, length, protection, flags, fd, offset);
    return mapped == MAP_FAILED ? -(long)errno : (long)mapped;
}

static inline long cgmem_munmap(unsigned long address, size_t length) {
    return cgmem_result(munmap((void *)address, length));
}

static inline long cgmem_mprotect(unsigned long address, size_t length, int protection) {
    return cgmem_result(mprotect((void *)address, length, protection));
}

static inline long cgmem_mlock(unsigned long address, size_t length) {
    return cgmem_result(mlock((void *)address, length));
}

static inline long cgmem_munlock(unsigned long address, size_t length) {
    return cgmem_result(munlock((void *)address, length));
}

static inline long cgmem_madvise(unsigned long address, size_t length, int advice) {
    return cgmem_result(madvise((void *)address, length, advice));
}

static inline long cgmem_fallocate(int fd, int mode, int64_t offset, int64_t length) {
    return cgmem_result(syscall(SYS_fallocate, fd, mode, offset, length));
}

static inline long cgmem_ftruncate(int fd, int64_t length) { return cgmem_result(ftruncate(fd, length)); }

static inline long cgmem_pread(int fd, void *buffer, size_t count, int64_t offset) {
    return cgmem_result(pread(fd, buffer, count, offset));
}

static inline long cgmem_lseek(int fd, int64_t offset, int whence) {
    return cgmem_result(lseek(fd, offset, whence));
}

static inline long cgmem_fstat(int fd, struct cgmem_stat *out) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -(long)errno;
    out->device = st.st_dev;
    out->inode = st.st_ino;
    out->size = (uint64_t)st.st_size;
    out->blocks = (uint64_t)st.st_blocks;
    out->mode = st.st_mode;
    out->reserved = 0;
    return 0;
}

static inline long cgmem_memfd_create(const char *name, unsigned flags) {
    return cgmem_result(syscall(SYS_memfd_create, name, flags));
}

// flags: O_CLOEXEC, O_NONBLOCK, UFFD_USER_MODE_ONLY.
static inline long cgmem_userfaultfd(int flags) { return cgmem_result(syscall(SYS_userfaultfd, flags)); }

// Never blocks: early in boot there may be no randomness yet (EAGAIN).
static inline long cgmem_getrandom(void *buffer, size_t count) {
    return cgmem_result(getrandom(buffer, count, GRND_NONBLOCK));
}

static inline long cgmem_page_size(void) { return sysconf(_SC_PAGESIZE); }

// CLOCK_MONOTONIC in nanoseconds.
static inline uint64_t cgmem_monotonic_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// 0, or -EINTR when a signal arrived: whoever sleeps decides whether the signal was a kick.
static inline long cgmem_sleep(uint64_t nanoseconds) {
    struct timespec t = {(time_t)(nanoseconds / 1000000000ull), (long)(nanoseconds % 1000000000ull)};
    return -(long)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

#endif
