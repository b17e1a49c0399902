import CGmem

/// Keeping the host out by userfaultfd. All of it under the file's lock.
///
/// What must stay true: under guard, in every mapping, a shared page is allocated and in the page table,
/// and a private page is not in the page table.
extension EmulatedFile {
    /// Takes pages away from the host. 0, or -errno with nothing changed.
    func withdraw(_ pages: PageRange) -> Int {
        if !guarded.covers(pages) {
            let result = extendGuard(over: pages)
            if result != 0 { return result }
        }
        // One call each, also over pages that are private already: they are in no page table.
        for mapping in mappings {
            guard let part = mapping.part(showing: pages) else { continue }
            let result = dropEntries(part)
            if result != 0 {
                // What was dropped is still shared; it comes back as it would after a new mapping.
                for mapping in mappings { _ = enterShared(of: pages, in: mapping) }
                return result
            }
        }
        return 0
    }

    /// Puts the guard over pages that are about to be private, and over what lies between them and the
    /// private pages of their chunk. 0, or -errno with nothing changed.
    private func extendGuard(over pages: PageRange) -> Int {
        let before = guarded
        let chunks = guarded.chunks(pages)
        var left: [HostMapping] = []
        for chunk in chunks {
            let old = guarded[chunk]
            var new = guarded.pages(ofChunk: chunk).intersection(pages)
            if !old.isEmpty {
                // Shared pages that come under guard unconverted must be in the page tables before.
                let low = min(new.end, old.end)
                let high = max(new.start, old.start)
                if low < high {
                    let result = populate(PageRange(start: low, count: high - low), &left)
                    if result != 0 {
                        guarded = before
                        return result
                    }
                }
                let start = min(new.start, old.start)
                new = PageRange(start: start, count: max(new.end, old.end) - start)
            }
            guarded[chunk] = new
        }
        // Without a gap from the first chunk to the last, so one call a mapping.
        let first = guarded[chunks.lowerBound].start
        let span = PageRange(start: first, count: guarded[chunks.upperBound].end - first)
        for mapping in mappings {
            guard let part = mapping.part(showing: span) else { continue }
            let result = guardian.register(part)
            if result != 0 {
                guarded = before
                for mapping in mappings { unregister(span, except: before, in: mapping) }
                return result
            }
        }
        // Only where nobody may touch them anyway are pages entered after the guard stands.
        for part in left { _ = guardian.enter(part) }
        return 0
    }

    /// Allocates pages and enters them into the page tables of ordinary memory. A mapping that may not be
    /// read (PROT_NONE, to be opened by mprotect later) cannot be populated, and is added to `left`.
    private func populate(_ pages: PageRange, _ left: inout [HostMapping]) -> Int {
        let result = allocate(pages)
        if result != 0 { return result }
        for mapping in mappings {
            guard let part = mapping.part(showing: pages) else { continue }
            let result = cgmem_madvise(part.address, part.length, CGMEM_MADV_POPULATE_READ)
            if result == LinuxErrno.invalid.result { left.append(part) } else if result != 0 { return result }
        }
        return 0
    }

    private func unregister(_ pages: PageRange, except kept: GuardedChunks, in mapping: HostMapping) {
        _ = kept.forEachPart(of: pages) { part, isGuarded in
            if !isGuarded, let part = mapping.part(showing: part) { _ = guardian.unregister(part) }
            return 0
        }
    }

    /// Gives pages to the host. 0, or -errno with nothing changed.
    func expose(_ pages: PageRange) -> Int {
        let before = guarded
        var lifted = PageRange(start: 0, count: 0)
        var result = 0
        for chunk in guarded.chunks(pages) {
            let run = guarded[chunk]
            let part = run.intersection(pages)
            if part.isEmpty { continue }
            if isLastPrivate(part, of: run) {
                guarded[chunk] = PageRange(start: 0, count: 0)
                if lifted.end == run.start && !lifted.isEmpty {
                    lifted.count += run.count
                    continue
                }
                result = lift(lifted)
                lifted = run
            } else {
                result = lift(lifted)
                lifted = PageRange(start: 0, count: 0)
                if result == 0 { result = enterPrivate(part) }
            }
            if result != 0 { break }
        }
        if result == 0 { result = lift(lifted) }
        if result == 0 { return 0 }
        guarded = before
        withhold(pages)
        return result
    }

    /// Whether the guard over a chunk's run can go with these pages. Few pages are not worth it: a guest
    /// that converts one page back and forth would pay for guarding it each time.
    private func isLastPrivate(_ part: PageRange, of run: PageRange) -> Bool {
        if part.count < 16 { return false }
        let left = PageRange(start: run.start, count: part.start - run.start)
        let right = PageRange(start: part.end, count: run.end - part.end)
        return (left.isEmpty || map.uniformState(of: left) == .shared)
            && (right.isEmpty || map.uniformState(of: right) == .shared)
    }

    /// Takes the guard away: the pages are ordinary memory from now on, and cost nothing until touched.
    private func lift(_ pages: PageRange) -> Int {
        if pages.isEmpty { return 0 }
        for mapping in mappings {
            guard let part = mapping.part(showing: pages) else { continue }
            let result = guardian.unregister(part)
            if result != 0 { return result }
        }
        return 0
    }

    /// Enters the private pages of a guarded part into every page table.
    private func enterPrivate(_ pages: PageRange) -> Int {
        var rest = pages
        while let run = map.nextRun(notIn: .shared, within: rest) {
            for mapping in mappings {
                let result = enter(run, in: mapping, allocatingUpTo: pages.end)
                if result != 0 { return result }
            }
            rest = PageRange(start: run.end, count: rest.end - run.end)
        }
        return 0
    }

    /// Allocation is tried only when a page turns out to be missing: a page that was touched once has
    /// its memory, and a guest converts the same pages again and again.
    private func enter(_ run: PageRange, in mapping: HostMapping, allocatingUpTo end: Int) -> Int {
        guard let part = mapping.part(showing: run) else { return 0 }
        let (done, errno) = guardian.enter(part)
        guard let errno else { return 0 }
        if errno != .badAddress { return errno.result }
        let start = part.pages.start + done
        let result = allocate(PageRange(start: start, count: end - start))
        if result != 0 { return result }
        let missing = PageRange(start: start, count: part.pages.end - start)
        return mapping.part(showing: missing).flatMap { guardian.enter($0).errno?.result } ?? 0
    }

    /// Enters the shared pages of a guarded part into one page table.
    private func enterShared(of pages: PageRange, in mapping: HostMapping) -> Int {
        guard let shown = mapping.part(showing: pages)?.pages else { return 0 }
        var rest = shown
        while let run = map.nextRun(notIn: .private, within: rest) {
            let result = enter(run, in: mapping, allocatingUpTo: run.end)
            if result != 0 { return result }
            rest = PageRange(start: run.end, count: rest.end - run.end)
        }
        return 0
    }

    /// Undoes a conversion to shared that failed half-way.
    private func withhold(_ pages: PageRange) {
        for mapping in mappings {
            _ = guarded.forEachPart(of: pages) { part, isGuarded in
                if isGuarded, let part = mapping.part(showing: part) { _ = guardian.register(part) }
                return 0
            }
            var rest = pages
            while let run = map.nextRun(notIn: .shared, within: rest) {
                if let part = mapping.part(showing: run) { _ = dropEntries(part) }
                rest = PageRange(start: run.end, count: rest.end - run.end)
            }
        }
    }

    // MARK: Mappings come and go

    /// Guards a mapping that nobody knows of yet. The first one decides what is under guard.
    func guardNewMapping(_ mapping: HostMapping) -> Int {
        if mappings.isEmpty { findGuarded() }
        guard let shown = mapping.part(showing: allPages)?.pages else { return 0 }
        return guarded.forEachPart(of: shown) { part, isGuarded in
            guard isGuarded, let covered = mapping.part(showing: part) else { return 0 }
            var result = guardian.register(covered)
            // After mlockall(MCL_FUTURE), mmap has entered every page.
            if result == 0 { result = dropEntries(covered) }
            return result != 0 ? result : enterShared(of: part, in: mapping)
        }
    }

    private func findGuarded() {
        let state = map.uniformState(of: allPages)
        for chunk in guarded.chunks(allPages) {
            let pages = guarded.pages(ofChunk: chunk).intersection(allPages)
            var run = PageRange(start: 0, count: 0)
            switch state ?? map.uniformState(of: pages) {
            case .private: run = pages
            case .shared: break
            case nil:
                var rest = pages
                while let next = map.nextRun(notIn: .shared, within: rest) {
                    if run.isEmpty { run.start = next.start }
                    run.count = next.end - run.start
                    rest = PageRange(start: next.end, count: rest.end - next.end)
                }
            }
            guarded[chunk] = run
        }
    }
}
