// Defines the allocator's entry points in the executable, where they win over the C library's for every
// library of the process, the Swift runtime included. Each counts and passes on to glibc's own name.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "include/CBaseline.h"

// A sanitizer has an allocator of its own in the executable, and what it counts nobody wants to know.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define CBASELINE_NO_COUNT
#endif
#endif

#ifdef CBASELINE_NO_COUNT
uint64_t cbaseline_malloc_count(void) { return 0; }
#else

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *pointer);

// One counter for all threads: about 5 ns an allocation, and an allocation by a worker thread is one too.
static uint64_t allocations;

static inline void count_one(void) { __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED); }

uint64_t cbaseline_malloc_count(void) { return __atomic_load_n(&allocations, __ATOMIC_RELAXED); }

void *malloc(size_t size) {
    count_one();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    count_one();
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size) {
    count_one();
    return __libc_realloc(pointer, size);
}

void *memalign(size_t alignment, size_t size) {
    count_one();
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    count_one();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0)
        return EINVAL;
    count_one();
    int saved = errno;  // posix_memalign leaves errno alone
    void *pointer = __libc_memalign(alignment, size);
    errno = saved;
    if (pointer == NULL)
        return ENOMEM;
    *out = pointer;
    return 0;
}

void free(void *pointer) { __libc_free(pointer); }

#endif
