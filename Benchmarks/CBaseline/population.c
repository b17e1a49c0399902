// The winners of README.md, "Populating a guest_memfd". No fallback and no error return: see the header.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "include/CBaseline.h"

// The numbers are Linux's own, written out because Debian 12's headers are older than they.
enum { POPULATE_READ = 22, POPULATE_WRITE = 23, GUARD_INSTALL = 102, GUARD_REMOVE = 103 };
enum { PAGE = 4096 };
// What is faulted in and copied at a time: it must still be in the second-level cache, freshly zeroed by
// the kernel, when the copy comes.
static const size_t CHUNK = 512 << 10;
// What a thread takes, allocates, opens and guards at a time: large enough for the calls not to count, small
// enough that no thread is left waiting for another.
static const size_t PIECE = 8 << 20;

static void need(int yes, const char *what) {
    if (yes)
        return;
    fprintf(stderr, "cbaseline: %s: %s\n", what, strerror(errno));
    abort();
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

// MARK: sources

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t random_run(uint64_t *state) { return (1 + next_random(state) % 64) * PAGE; }

static int unnamed_file(const char *directory, const uint8_t *bytes, size_t size) {
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, bytes + done, size - done, (off_t)done);
        if (n <= 0) {
            int why = n < 0 ? errno : ENOSPC;
            close(fd);
            return -why;
        }
        done += (size_t)n;
    }
    // Written back now, so that the disk does not do it in the middle of a round.
    fsync(fd);
    return fd;
}

int cbaseline_sources_create(struct cbaseline_sources *out, size_t size, const char *directory) {
    memset(out, 0, sizeof *out);
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *sparse = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || sparse == MAP_FAILED)
        return -errno;
    uint64_t random = 88172645463325252ull;
    for (size_t i = 0; i < size; i += sizeof(uint64_t))
        *(uint64_t *)(memory + i) = next_random(&random);
    // Written even where zero: an untouched source page would be the kernel's zero page, always in cache.
    memset(sparse, 0, size);
    for (size_t at = 0; at < size;) {
        at += random_run(&random) + random_run(&random) + random_run(&random);
        if (at >= size)
            break;
        size_t length = least(random_run(&random), size - at);
        memcpy(sparse + at, memory + at, length);
        out->sparse_nonzero += length;
        at += length;
    }
    int file = unnamed_file(directory, memory, size);
    if (file < 0) {
        munmap(memory, size);
        munmap(sparse, size);
        return file;
    }
    out->size = size;
    out->memory = memory;
    out->file = file;
    out->sparse = sparse;
    return 0;
}

void cbaseline_sources_destroy(struct cbaseline_sources *sources) {
    munmap((void *)sources->memory, sources->size);
    munmap((void *)sources->sparse, sources->size);
    close(sources->file);
}

// MARK: targets

static int new_guest_memfd(int vm, size_t size) {
    struct {
        uint64_t size, flags, reserved[6];
    } request = {size, 3 /* MMAP | INIT_SHARED */, {0}};
    int fd = ioctl(vm, 0xC040AED4u /* KVM_CREATE_GUEST_MEMFD */, &request);
    return fd < 0 ? -errno : fd;
}

static int new_vm(void) {
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -errno;
    int vm = ioctl(device, 0xAE01u /* KVM_CREATE_VM */, 0);
    int why = errno;
    close(device);
    return vm < 0 ? -why : vm;
}

int cbaseline_target_create(struct cbaseline_target *out, size_t size, int guarded) {
    out->vm = new_vm();
    if (out->vm < 0)
        return out->vm;
    out->fd = new_guest_memfd(out->vm, size);
    if (out->fd < 0) {
        close(out->vm);
        return out->fd;
    }
    out->size = size;
    out->guarded = guarded;
    out->host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, out->fd, 0);
    if (out->host != MAP_FAILED && (!guarded || madvise(out->host, size, GUARD_INSTALL) == 0))
        return 0;
    int why = errno;
    if (out->host != MAP_FAILED)
        munmap(out->host, size);
    close(out->fd);
    close(out->vm);
    return -why;
}

void cbaseline_target_destroy(struct cbaseline_target *target) {
    munmap(target->host, target->size);
    close(target->fd);
    close(target->vm);
}

void cbaseline_warm(size_t size) {
    uint8_t *pool = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(pool != MAP_FAILED, "mmap of the warming pool");
    madvise(pool, size, MADV_HUGEPAGE);
    for (size_t at = 0; at < size; at += PAGE)
        *(volatile uint8_t *)(pool + at) = 1;
    munmap(pool, size);
}

// MARK: sequences

static void read_in_place(int file, uint8_t *to, size_t at, size_t length) {
    while (length > 0) {
        ssize_t n = pread(file, to, length, (off_t)at);
        need(n > 0, "pread");
        to += n;
        at += (size_t)n;
        length -= (size_t)n;
    }
}

static void advise(void *address, size_t length, int advice, const char *what) {
    need(madvise(address, length, advice) == 0, what);
}

static void open_whole(const struct cbaseline_target *target) {
    if (target->guarded)
        advise(target->host, target->size, GUARD_REMOVE, "MADV_GUARD_REMOVE");
}

static void close_whole(const struct cbaseline_target *target) {
    if (target->guarded)
        advise(target->host, target->size, GUARD_INSTALL, "MADV_GUARD_INSTALL");
}

static void copy_mapped_file(const struct cbaseline_target *target, int file) {
    void *from = mmap(NULL, target->size, PROT_READ, MAP_SHARED, file, 0);
    need(from != MAP_FAILED, "mmap of the source file");
    memcpy(target->host, from, target->size);
    munmap(from, target->size);
}

void cbaseline_plain(const struct cbaseline_target *target, const struct cbaseline_sources *sources,
                     enum cbaseline_kind kind) {
    open_whole(target);
    if (kind == CBASELINE_FILE)
        copy_mapped_file(target, sources->file);
    else
        memcpy(target->host, kind == CBASELINE_SPARSE ? sources->sparse : sources->memory, target->size);
    close_whole(target);
}

void cbaseline_plain_read(const struct cbaseline_target *target, const struct cbaseline_sources *sources) {
    open_whole(target);
    read_in_place(sources->file, target->host, 0, target->size);
    close_whole(target);
}

struct job {
    const struct cbaseline_target *target;
    const struct cbaseline_sources *sources;
    enum cbaseline_kind kind;
    uint8_t *view;  // where to write
    int guards;     // whether `view` is guarded
    size_t next;    // the first piece nobody has taken
};

static void fault_in(uint8_t *address, size_t length) {
    advise(address, length, POPULATE_WRITE, "MADV_POPULATE_WRITE");
}

static void open_guards(struct job *job, size_t piece, size_t end) {
    if (job->guards)
        advise(job->view + piece, end - piece, GUARD_REMOVE, "MADV_GUARD_REMOVE");
}

// Unmaps what the copy mapped, too: much the greater part of what it costs.
static void close_guards(struct job *job, size_t piece, size_t end) {
    if (job->guards)
        advise(job->view + piece, end - piece, GUARD_INSTALL, "MADV_GUARD_INSTALL");
}

static void dense_piece(struct job *job, size_t piece, size_t end) {
    // Allocating ahead of the faults takes the page cache's work out of them.
    need(fallocate(job->target->fd, FALLOC_FL_KEEP_SIZE, (off_t)piece, (off_t)(end - piece)) == 0, "fallocate");
    open_guards(job, piece, end);
    for (size_t at = piece; at < end; at += CHUNK) {
        size_t length = least(CHUNK, end - at);
        uint8_t *to = job->view + at;
        fault_in(to, length);
        if (job->kind == CBASELINE_FILE)
            read_in_place(job->sources->file, to, at, length);
        else
            memcpy(to, job->sources->memory + at, length);
    }
    close_guards(job, piece, end);
}

static int is_zero(const uint8_t *page) {
    static const uint8_t zeros[PAGE] __attribute__((aligned(PAGE)));
    return memcmp(page, zeros, PAGE) == 0;
}

static void sparse_piece(struct job *job, size_t piece, size_t end) {
    const uint8_t *from = job->sources->sparse;
    open_guards(job, piece, end);
    for (size_t at = piece; at < end;) {
        if (is_zero(from + at)) {
            at += PAGE;
            continue;
        }
        // The run is still in cache from being looked at when it is copied: hence the limit.
        size_t stop = at + PAGE;
        size_t limit = least(at + CHUNK, end);
        while (stop < limit && !is_zero(from + stop))
            stop += PAGE;
        fault_in(job->view + at, stop - at);
        memcpy(job->view + at, from + at, stop - at);
        at = stop;
    }
    close_guards(job, piece, end);
}

static void *work(void *context) {
    struct job *job = context;
    for (;;) {
        size_t piece = __atomic_fetch_add(&job->next, PIECE, __ATOMIC_RELAXED);
        if (piece >= job->target->size)
            return NULL;
        size_t end = least(piece + PIECE, job->target->size);
        if (job->kind == CBASELINE_SPARSE)
            sparse_piece(job, piece, end);
        else
            dense_piece(job, piece, end);
    }
}

static void run(struct job *job, int threads) {
    enum { MOST = 16 };
    pthread_t others[MOST];
    need(threads >= 1 && threads <= MOST, "1 to 16 threads");
    for (int i = 1; i < threads; i++)
        need(pthread_create(&others[i], NULL, work, job) == 0, "pthread_create");
    work(job);
    for (int i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
}

void cbaseline_best(const struct cbaseline_target *target, const struct cbaseline_sources *sources,
                    enum cbaseline_kind kind, int threads) {
    struct job job = {target, sources, kind, target->host, target->guarded, 0};
    run(&job, threads);
}

void cbaseline_best_unguarded_view(const struct cbaseline_target *target,
                                   const struct cbaseline_sources *sources, enum cbaseline_kind kind,
                                   int threads) {
    uint8_t *view = mmap(NULL, target->size, PROT_READ | PROT_WRITE, MAP_SHARED, target->fd, 0);
    need(view != MAP_FAILED, "mmap of a second view");
    struct job job = {target, sources, kind, view, 0, 0};
    run(&job, threads);
    munmap(view, target->size);
}

void cbaseline_fault_in(const struct cbaseline_target *target) { fault_in(target->host, target->size); }

void cbaseline_copy(const struct cbaseline_target *target, const struct cbaseline_sources *sources) {
    for (size_t at = 0; at < target->size; at += CHUNK)
        memcpy(target->host + at, sources->memory + at, least(CHUNK, target->size - at));
}

// MARK: checks

int cbaseline_verify(int fd, const struct cbaseline_sources *sources, enum cbaseline_kind kind) {
    void *view = mmap(NULL, sources->size, PROT_READ, MAP_SHARED, fd, 0);
    need(view != MAP_FAILED, "mmap for verification");
    const uint8_t *wanted = kind == CBASELINE_SPARSE ? sources->sparse : sources->memory;
    int same = memcmp(view, wanted, sources->size) == 0;
    munmap(view, sources->size);
    return same;
}

int cbaseline_is_guarded(const void *address, size_t size) {
    for (size_t at = 0; at < size; at += PAGE)
        if (madvise((uint8_t *)address + at, PAGE, POPULATE_READ) == 0 || errno != EFAULT)
            return 0;
    return 1;
}
