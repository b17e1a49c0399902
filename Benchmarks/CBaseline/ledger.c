// The ledger's three arrays by hand in C: what Sources/GuestMemory/Shareability is measured against. Laid out
// and kept exact in the same way, statistics included, for the initial state "all private" only and without
// checks of what it is given.

#include "CBaseline.h"

#include <stdlib.h>
#include <sys/mman.h>

// A frame's count of shared pages, as in FrameCount.swift: more than 0, that many; 0 none, -1 all; -2 none and -3 all,
// with what lies below out of date.
enum { FANOUT_SHIFT = 9, FANOUT = 1 << FANOUT_SHIFT };
static int is_mixed(int32_t count) { return count > 0; }
static int is_stale(int32_t count) { return count < -1; }
static int32_t stale(int shared) { return -2 - shared; }
static int is_all(int32_t count, int shared) { return ((count + 2 + shared) & ~2) == 0; }
static size_t number(int32_t count, size_t pages) {
    return is_mixed(count) ? (size_t)count : pages & -(size_t)(count & 1);
}

struct frame1g {
    int32_t count;
    uint16_t mixed2m;
};

struct cbaseline_ledger {
    size_t pages;
    unsigned shift2m, shift1g;
    size_t frames1g_count, frames2m_count;
    struct frame1g *frames1g;
    int16_t *frames2m;
    uint64_t *words;
    size_t shared;
    size_t mixed2m, mixed2m_peak, mixed1g, mixed1g_peak;
    size_t size;
};

static size_t line(size_t offset) { return (offset + 63) & ~(size_t)63; }

struct cbaseline_ledger *cbaseline_ledger_create(size_t pages, size_t page_size) {
    unsigned page_shift = (unsigned)__builtin_ctzl(page_size);
    unsigned shift2m = 21 - page_shift, shift1g = 30 - page_shift;
    size_t count1g = ((pages - 1) >> shift1g) + 1;
    size_t frames1g = line(sizeof(struct cbaseline_ledger));
    size_t frames2m = line(frames1g + count1g * sizeof(struct frame1g));
    size_t words = frames2m + count1g * FANOUT * sizeof(int16_t);
    size_t size = words + (count1g << shift1g) / 8;
    uint8_t *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        abort();
    struct cbaseline_ledger *ledger = (struct cbaseline_ledger *)base;
    ledger->pages = pages;
    ledger->shift2m = shift2m;
    ledger->shift1g = shift1g;
    ledger->frames1g_count = count1g;
    ledger->frames2m_count = ((pages - 1) >> shift2m) + 1;
    ledger->frames1g = (struct frame1g *)(base + frames1g);
    ledger->frames2m = (int16_t *)(base + frames2m);
    ledger->words = (uint64_t *)(base + words);
    ledger->size = size;
    return ledger;
}

void cbaseline_ledger_destroy(struct cbaseline_ledger *ledger) { munmap(ledger, ledger->size); }

// MARK: one page, one frame

// Not inlined into the workloads, as the library's functions are not into a VMM.
__attribute__((noinline)) static int is_shared(const struct cbaseline_ledger *ledger, size_t page) {
    size_t frame = page >> ledger->shift2m;
    int32_t above = ledger->frames1g[frame >> FANOUT_SHIFT].count;
    if (!is_mixed(above))
        return above & 1;
    int32_t count = ledger->frames2m[frame];
    if (!is_mixed(count))
        return count & 1;
    return ledger->words[page >> 6] >> (page & 63) & 1;
}

// The state of a 2 MiB frame, or 2 when it is mixed.
__attribute__((noinline)) static int frame_state(const struct cbaseline_ledger *ledger, size_t frame) {
    int32_t above = ledger->frames1g[frame >> FANOUT_SHIFT].count;
    if (!is_mixed(above))
        return above & 1;
    int32_t count = ledger->frames2m[frame];
    return is_mixed(count) ? 2 : count & 1;
}

// Pages in a frame, of which the file's end may have cut the last.
static size_t pages_in(const struct cbaseline_ledger *ledger, size_t frame, unsigned shift) {
    size_t start = frame << shift, full = (size_t)1 << shift;
    return ledger->pages - start < full ? ledger->pages - start : full;
}

static void fill_entries(struct cbaseline_ledger *ledger, size_t frame1g, int shared) {
    for (size_t i = 0; i < FANOUT; i++)
        ledger->frames2m[frame1g * FANOUT + i] = (int16_t)stale(shared);
}

static void fill_bits(struct cbaseline_ledger *ledger, size_t frame2m, int shared) {
    uint64_t *words = ledger->words + (frame2m << ledger->shift2m >> 6);
    for (size_t i = 0; i < (size_t)1 << ledger->shift2m >> 6; i++)
        words[i] = shared ? UINT64_MAX : 0;
}

static void note_peaks(struct cbaseline_ledger *ledger) {
    if (ledger->mixed2m_peak < ledger->mixed2m)
        ledger->mixed2m_peak = ledger->mixed2m;
    if (ledger->mixed1g_peak < ledger->mixed1g)
        ledger->mixed1g_peak = ledger->mixed1g;
}

__attribute__((noinline)) static void set_page(struct cbaseline_ledger *ledger, size_t page, int shared) {
    size_t index2m = page >> ledger->shift2m, index1g = index2m >> FANOUT_SHIFT;
    struct frame1g *frame1g = &ledger->frames1g[index1g];
    int32_t old1g = frame1g->count;
    if (is_all(old1g, shared))
        return;
    if (is_stale(old1g))
        fill_entries(ledger, index1g, !shared);
    int32_t old2m = ledger->frames2m[index2m];
    if (is_all(old2m, shared))
        return;
    if (is_stale(old2m))
        fill_bits(ledger, index2m, !shared);
    uint64_t word = ledger->words[page >> 6];
    if ((int)(word >> (page & 63) & 1) == shared)
        return;
    ledger->words[page >> 6] = word ^ (uint64_t)1 << (page & 63);

    size_t change = shared ? 1 : (size_t)-1;
    size_t pages2m = pages_in(ledger, index2m, ledger->shift2m);
    size_t pages1g = pages_in(ledger, index1g, ledger->shift1g);
    size_t sum2m = number(old2m, pages2m) + change;
    size_t sum1g = number(old1g, pages1g) + change;
    int32_t new2m = sum2m == pages2m ? -1 : (int32_t)sum2m;
    int32_t new1g = sum1g == pages1g ? -1 : (int32_t)sum1g;
    int mixed2m = is_mixed(new2m) - is_mixed(old2m);
    ledger->frames2m[index2m] = (int16_t)new2m;
    *frame1g = (struct frame1g){new1g, (uint16_t)(frame1g->mixed2m + mixed2m)};
    ledger->shared += change;
    ledger->mixed2m += (size_t)mixed2m;
    if (is_mixed(new1g) != is_mixed(old1g))
        ledger->mixed1g += is_mixed(new1g) ? 1 : (size_t)-1;
    note_peaks(ledger);
}

void cbaseline_ledger_set_all(struct cbaseline_ledger *ledger, int shared) {
    size_t before = 0, unmixed2m = 0, unmixed1g = 0;
    size_t last = ledger->frames1g_count - 1;
    for (size_t i = 0; i <= last; i++) {
        struct frame1g old = ledger->frames1g[i];
        size_t pages = i == last ? pages_in(ledger, i, ledger->shift1g) : (size_t)1 << ledger->shift1g;
        before += number(old.count, pages);
        unmixed2m += old.mixed2m;
        unmixed1g += (size_t)is_mixed(old.count);
        ledger->frames1g[i] = (struct frame1g){is_all(old.count, shared) ? old.count : stale(shared), 0};
    }
    ledger->shared += (shared ? ledger->pages : 0) - before;
    ledger->mixed2m -= unmixed2m;
    ledger->mixed1g -= unmixed1g;
    note_peaks(ledger);
}

// The first page from `page` on that is shared, or that is not; or `end`.
__attribute__((noinline)) static size_t first_page(const struct cbaseline_ledger *ledger, int shared, size_t page, size_t end) {
    uint64_t flip = shared ? 0 : UINT64_MAX;
    while (page < end) {
        size_t index1g = page >> ledger->shift1g;
        int32_t above = ledger->frames1g[index1g].count;
        if (!is_mixed(above)) {
            if ((above & 1) == shared)
                return page;
            page = (index1g + 1) << ledger->shift1g;
            continue;
        }
        size_t index2m = page >> ledger->shift2m;
        int32_t count = ledger->frames2m[index2m];
        size_t end2m = (index2m + 1) << ledger->shift2m;
        if (!is_mixed(count)) {
            if ((count & 1) == shared)
                return page;
            page = end2m;
            continue;
        }
        uint64_t found = (ledger->words[page >> 6] ^ flip) & UINT64_MAX << (page & 63);
        size_t word = page >> 6, stop = end2m >> 6;
        while (found == 0 && ++word < stop)
            found = ledger->words[word] ^ flip;
        if (found != 0) {
            page = (word << 6) + (size_t)__builtin_ctzl(found);
            return page < end ? page : end;
        }
        page = end2m;
    }
    return end;
}

// MARK: workloads

size_t cbaseline_ledger_query(const struct cbaseline_ledger *ledger, const size_t *pages, size_t count) {
    size_t shared = 0;
    for (size_t i = 0; i < count; i++)
        shared += (size_t)is_shared(ledger, pages[i]);
    return shared;
}

size_t cbaseline_ledger_query_dependent(const struct cbaseline_ledger *ledger, const size_t *pages, size_t count) {
    size_t last = 0;
    for (size_t i = 0; i < count; i++)
        last = (size_t)is_shared(ledger, pages[i] ^ last << 20);
    return last;
}

void cbaseline_ledger_set(struct cbaseline_ledger *ledger, const size_t *pages, const uint8_t *shared,
                          size_t count) {
    for (size_t i = 0; i < count; i++)
        set_page(ledger, pages[i], shared[i]);
}

void cbaseline_ledger_flip(struct cbaseline_ledger *ledger, const size_t *pages, size_t count) {
    for (size_t i = 0; i < count; i++)
        set_page(ledger, pages[i], !is_shared(ledger, pages[i]));
}

size_t cbaseline_ledger_mixed(const struct cbaseline_ledger *ledger, const size_t *frames, size_t count) {
    size_t mixed = 0;
    for (size_t i = 0; i < count; i++)
        mixed += (size_t)(frame_state(ledger, frames[i]) == 2);
    return mixed;
}

size_t cbaseline_ledger_mixed_in_order(const struct cbaseline_ledger *ledger) {
    size_t mixed = 0;
    for (size_t frame = 0; frame < ledger->frames2m_count; frame++)
        mixed += (size_t)(frame_state(ledger, frame) == 2);
    return mixed;
}

size_t cbaseline_ledger_runs(const struct cbaseline_ledger *ledger) {
    size_t runs = 0;
    for (size_t page = 0; page < ledger->pages; runs++) {
        size_t start = first_page(ledger, 1, page, ledger->pages);
        if (start == ledger->pages)
            break;
        page = first_page(ledger, 0, start, ledger->pages);
    }
    return runs;
}

size_t cbaseline_ledger_create_and_ask(size_t pages, size_t page_size, size_t first, size_t second) {
    struct cbaseline_ledger *ledger = cbaseline_ledger_create(pages, page_size);
    size_t shared = (size_t)(is_shared(ledger, first) + is_shared(ledger, second));
    cbaseline_ledger_destroy(ledger);
    return shared;
}
