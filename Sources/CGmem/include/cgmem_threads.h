// Locks, waiting and worker threads: what Embedded Swift has no library for.
#ifndef CGMEM_THREADS_H
#define CGMEM_THREADS_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct cgmem_mutex {
    pthread_mutex_t mutex;
};

static inline void cgmem_mutex_init(struct cgmem_mutex *m) { pthread_mutex_init(&m->mutex, NULL); }
static inline void cgmem_mutex_destroy(struct cgmem_mutex *m) { pthread_mutex_destroy(&m->mutex); }
static inline void cgmem_mutex_lock(struct cgmem_mutex *m) { pthread_mutex_lock(&m->mutex); }
static inline void cgmem_mutex_unlock(struct cgmem_mutex *m) { pthread_mutex_unlock(&m->mutex); }

#define CGMEM_FUTEX_WAIT_BITSET_PRIVATE (9 | 128)
#define CGMEM_FUTEX_WAKE_PRIVATE (1 | 128)

// Waits while *word == expected, at most until deadline (CLOCK_MONOTONIC, nanoseconds; UINT64_MAX for
// ever). 0 when woken, -EAGAIN when the word had changed already, -ETIMEDOUT, -EINTR.
static inline long cgmem_futex_wait(const uint32_t *word, uint32_t expected, uint64_t deadline) {
    struct timespec t = {(time_t)(deadline / 1000000000ull), (long)(deadline % 1000000000ull)};
    long r = syscall(SYS_futex, word, CGMEM_FUTEX_WAIT_BITSET_PRIVATE, expected,
                     deadline == UINT64_MAX ? NULL : &t, NULL, 0xffffffffu);
    return r < 0 ? -(long)errno : 0;
}

// Wakes every waiter; returns how many there were.
static inline long cgmem_futex_wake(const uint32_t *word) {
    long r = syscall(SYS_futex, word, CGMEM_FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
    return r < 0 ? -(long)errno : r;
}

static inline uint32_t cgmem_load32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void cgmem_add32(uint32_t *word, uint32_t n) { __atomic_fetch_add(word, n, __ATOMIC_ACQ_REL); }
// Returns the value before the addition.
static inline uint64_t cgmem_fetch_add64(uint64_t *word, uint64_t n) {
    return __atomic_fetch_add(word, n, __ATOMIC_ACQ_REL);
}

typedef void (*cgmem_thread_body)(void *context);
struct cgmem_thread {
    pthread_t thread;
    cgmem_thread_body body;
    void *context;
};

static inline void *cgmem_thread_entry(void *argument) {
    struct cgmem_thread *t = (struct cgmem_thread *)argument;
    t->body(t->context);
    return NULL;
}

// *t must stay where it is until cgmem_thread_join. Returns 0 or -errno.
static inline long cgmem_thread_start(struct cgmem_thread *t, cgmem_thread_body body, void *context) {
    t->body = body;
    t->context = context;
    return -(long)pthread_create(&t->thread, NULL, cgmem_thread_entry, t);
}

static inline void cgmem_thread_join(struct cgmem_thread *t) { pthread_join(t->thread, NULL); }

// A number that no other living thread has, never 0.
static inline uint64_t cgmem_thread_self(void) { return (uint64_t)pthread_self(); }

#endif
