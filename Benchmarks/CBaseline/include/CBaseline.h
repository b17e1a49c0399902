// What the library's population and its ledger are measured against: the same work by hand in C, and a count
// of this process's heap allocations. README.md, one directory up, says which sequences lost to these.
//
// Nothing here recovers from an error: a function that cannot do its work says why and aborts, because a
// baseline that skipped some work would be a fast one.
#ifndef CBASELINE_H
#define CBASELINE_H

#include <stddef.h>
#include <stdint.h>

// What there is to populate from: the same `size` bytes three times.
struct cbaseline_sources {
    size_t size;
    const uint8_t *memory;  // no page of it zero
    int file;               // the same bytes in a file without a name, page-cached; read with pread
    const uint8_t *sparse;  // three quarters of its pages zero, scattered in runs; the others as in memory
    size_t sparse_nonzero;  // bytes in pages that are not zero
};
// 0, or -errno when there is no room. `directory`: where the file is made, e.g. "/tmp".
int cbaseline_sources_create(struct cbaseline_sources *out, size_t size, const char *directory);
void cbaseline_sources_destroy(struct cbaseline_sources *sources);

enum cbaseline_kind { CBASELINE_MEMORY, CBASELINE_FILE, CBASELINE_SPARSE };

// A fresh guest_memfd (MMAP | INIT_SHARED) of a plain VM, mapped once: the host view.
struct cbaseline_target {
    int vm;
    int fd;
    int guarded;  // whether every page of the host view is guarded before and after population
    uint8_t *host;
    size_t size;
};
// 0, or -errno where this host has no such guest_memfd (or, with `guarded`, no guard pages).
int cbaseline_target_create(struct cbaseline_target *out, size_t size, int guarded);
void cbaseline_target_destroy(struct cbaseline_target *target);

// Touches and frees as much memory as will be needed. Right before every timed run: memory that went back
// to a hypervisor costs ten times as much at the first touch, and would land on whoever comes first.
void cbaseline_warm(size_t size);

// The whole source into the whole target in one memcpy, of a mapping of the file if it is the file, page
// faults where they fall; zero pages are copied like others. A guarded target is opened whole before and
// guarded whole after.
void cbaseline_plain(const struct cbaseline_target *target, const struct cbaseline_sources *sources,
                     enum cbaseline_kind kind);
// The file by one pread: a fault inside a system call is cheaper than one outside.
void cbaseline_plain_read(const struct cbaseline_target *target, const struct cbaseline_sources *sources);

// The best sequence known, on `threads` threads, the caller being one of them. Of CBASELINE_SPARSE, zero
// pages stay unallocated. Of a guarded target no more is open at a time than 8 MiB a thread.
void cbaseline_best(const struct cbaseline_target *target, const struct cbaseline_sources *sources,
                    enum cbaseline_kind kind, int threads);

// As cbaseline_best, but through a second mapping of the file that has no guards. Not the same work: it
// goes around the enforcement that the level promises.
void cbaseline_best_unguarded_view(const struct cbaseline_target *target,
                                   const struct cbaseline_sources *sources, enum cbaseline_kind kind,
                                   int threads);

// Maps every page of an unguarded target, so that cbaseline_copy is nothing but the copy.
void cbaseline_fault_in(const struct cbaseline_target *target);
// memcpy of sources->memory, in the chunks that cbaseline_best uses.
void cbaseline_copy(const struct cbaseline_target *target, const struct cbaseline_sources *sources);

// Whether the file behind `fd` holds what `kind` says, seen through a mapping of its own. Allocates
// whatever was not. 1 or 0.
int cbaseline_verify(int fd, const struct cbaseline_sources *sources, enum cbaseline_kind kind);
// Whether no page of [address, address + size) can be touched: asked of each page, by
// MADV_POPULATE_READ. 1 or 0.
int cbaseline_is_guarded(const void *address, size_t size);

// A ledger of the same three arrays as the library's `ShareabilityMap`, all pages private to begin with.
// Page and frame numbers are not checked. One call does a whole round of a benchmark, so that what is compared
// is the work and not the way from Swift to C.
struct cbaseline_ledger;
// `page_size`: a power of two from 4 KiB to 32 KiB.
struct cbaseline_ledger *cbaseline_ledger_create(size_t pages, size_t page_size);
void cbaseline_ledger_destroy(struct cbaseline_ledger *ledger);
// Page `pages[i]` becomes shared, or private where `shared[i]` is 0.
void cbaseline_ledger_set(struct cbaseline_ledger *ledger, const size_t *pages, const uint8_t *shared,
                          size_t count);
// Asks for the state of each page and sets it to the opposite.
void cbaseline_ledger_flip(struct cbaseline_ledger *ledger, const size_t *pages, size_t count);
void cbaseline_ledger_set_all(struct cbaseline_ledger *ledger, int shared);
// How many of the pages are shared.
size_t cbaseline_ledger_query(const struct cbaseline_ledger *ledger, const size_t *pages, size_t count);
// Each answer is part of the next question: page `pages[i]`, or one 4 GiB away after "shared". The last answer.
size_t cbaseline_ledger_query_dependent(const struct cbaseline_ledger *ledger, const size_t *pages,
                                        size_t count);
// How many of the 2 MiB frames hold both states; of all of them in order.
size_t cbaseline_ledger_mixed(const struct cbaseline_ledger *ledger, const size_t *frames, size_t count);
size_t cbaseline_ledger_mixed_in_order(const struct cbaseline_ledger *ledger);
// How many runs of shared pages there are.
size_t cbaseline_ledger_runs(const struct cbaseline_ledger *ledger);
// Creates a ledger, asks it for the state of two pages, and destroys it. How many are shared.
size_t cbaseline_ledger_create_and_ask(size_t pages, size_t page_size, size_t first, size_t second);

// Heap allocations (malloc, calloc, realloc, memalign and its family) of this process so far, all threads.
// Works in an executable that links this target statically, as every target of this package is linked.
// Always 0 under a sanitizer.
uint64_t cbaseline_malloc_count(void);

#endif
