extension ShareabilityMap {
    /// Puts all pages of a range into a state. An empty range changes nothing.
    ///
    /// A whole 1 GiB frame costs one store, a whole 2 MiB frame too, and the rest goes 64 pages at a time.
    @inline(__always)
    package mutating func set(_ range: PageRange, to state: Shareability) {
        // What guests do most: one page.
        if range.count == 1 {
            setPage(range.start, differs: state != initially)
        } else {
            setRange(range, differs: state != initially)
        }
    }

    private mutating func setPage(_ page: Int, differs: Bool) {
        check(page: page)
        let index2M = page &>> shape.shift2M
        let index1G = index2M &>> FrameShape.fanoutShift
        // Branches where what comes is nearly always the same, arithmetic where it depends on the guest: a flip
        // to and fro makes a frame mixed and uniform by turns.
        let old1G = frames1G[index1G]
        if old1G.count.isAll(differs) { return }
        if old1G.count.isStale { writeEntries(belowFrame1G: index1G, differs: !differs) }
        let old2M = frames2M[index2M].count
        if old2M.isAll(differs) { return }
        if old2M.isStale { fillBits(ofFrame2M: index2M, with: !differs) }
        let word = words[page &>> 6]
        let bit: UInt64 = 1 &<< UInt64(truncatingIfNeeded: page)
        if (word & bit != 0) == differs { return }
        words[page &>> 6] = word ^ bit

        let change = differs ? 1 : -1
        let pages2M = shape.pages(inFrame2M: index2M)
        let new2M = FrameCount(old2M.count(of: pages2M) &+ change, of: pages2M)
        frames2M[index2M] = Frame2M(new2M)
        let mixed2M = (new2M.isMixed ? 1 : 0) &- (old2M.isMixed ? 1 : 0)
        let pages1G = shape.pages(inFrame1G: index1G)
        let new1G = Frame1G(
            count: FrameCount(old1G.count.count(of: pages1G) &+ change, of: pages1G),
            mixed2M: UInt16(truncatingIfNeeded: Int(old1G.mixed2M) &+ mixed2M))
        frames1G[index1G] = new1G
        differing &+= change
        statistics.mixed2M &+= mixed2M
        if new1G.count.isMixed != old1G.count.isMixed { statistics.mixed1G &+= new1G.count.isMixed ? 1 : -1 }
        statistics.notePeaks()
    }

    private mutating func setRange(_ range: PageRange, differs: Bool) {
        check(range)
        if range.isEmpty { return }
        let end = range.end
        var page = range.start
        let first1G = page &>> shape.shift1G
        if page != first1G &<< shape.shift1G {
            let stop = min(end, (first1G + 1) &<< shape.shift1G)
            setPart(ofFrame1G: first1G, from: page, to: stop, differs: differs)
            page = stop
        }
        // The file's end completes the last frame.
        let whole1G = end == pageCount ? shape.lastFrame1G + 1 : end &>> shape.shift1G
        if page < end, page &>> shape.shift1G < whole1G {
            setWhole1G(from: page &>> shape.shift1G, to: whole1G, differs: differs)
            page = min(end, whole1G &<< shape.shift1G)
        }
        if page < end { setPart(ofFrame1G: whole1G, from: page, to: end, differs: differs) }
        statistics.notePeaks()
    }

    /// One store a frame. What lies below is overridden, not touched.
    private mutating func setWhole1G(from start: Int, to end: Int, differs: Bool) {
        // The last frame by itself, so that the loop over the others knows how many pages each has.
        let stop = min(end, shape.lastFrame1G)
        setWhole1G(from: start, to: stop, pages: shape.full1G, differs: differs)
        if stop < end {
            setWhole1G(from: stop, to: end, pages: shape.pages(inFrame1G: stop), differs: differs)
        }
    }

    @inline(__always)
    private mutating func setWhole1G(from start: Int, to end: Int, pages: Int, differs: Bool) {
        let target = FrameCount.stale(all: differs)
        // Sums in locals, so that the loop keeps them in registers.
        let table = frames1G
        var before = 0
        var unmixed2M = 0
        var unmixed1G = 0
        var index = start
        while index < end {
            let old = table[index]
            before &+= old.count.count(of: pages)
            unmixed2M &+= Int(old.mixed2M)
            unmixed1G &+= old.count.isMixed ? 1 : 0
            // A frame that is in the state already keeps what is exact below it.
            table[index] = Frame1G(count: old.count.isAll(differs) ? old.count : target, mixed2M: 0)
            index &+= 1
        }
        differing &+= (differs ? pages &* (end &- start) : 0) &- before
        statistics.mixed2M &-= unmixed2M
        statistics.mixed1G &-= unmixed1G
    }

    /// Part of a 1 GiB frame: whole 2 MiB frames by one store each, the rest by bits.
    private mutating func setPart(ofFrame1G index1G: Int, from start: Int, to end: Int, differs: Bool) {
        let old1G = frames1G[index1G]
        if old1G.count.isAll(differs) { return }
        if old1G.count.isStale { writeEntries(belowFrame1G: index1G, differs: !differs) }

        var change = FrameChange()
        var page = start
        let first2M = page &>> shape.shift2M
        if page != first2M &<< shape.shift2M {
            let stop = min(end, (first2M + 1) &<< shape.shift2M)
            setPart(ofFrame2M: first2M, from: page, to: stop, differs: differs, &change)
            page = stop
        }
        let whole2M = end == pageCount ? shape.lastFrame2M + 1 : end &>> shape.shift2M
        if page < end, page &>> shape.shift2M < whole2M {
            setWhole2M(from: page &>> shape.shift2M, to: whole2M, differs: differs, &change)
            page = min(end, whole2M &<< shape.shift2M)
        }
        if page < end { setPart(ofFrame2M: whole2M, from: page, to: end, differs: differs, &change) }

        let pages1G = shape.pages(inFrame1G: index1G)
        let new1G = Frame1G(
            count: FrameCount(old1G.count.count(of: pages1G) + change.differing, of: pages1G),
            mixed2M: UInt16(Int(old1G.mixed2M) + change.mixed2M))
        frames1G[index1G] = new1G
        differing += change.differing
        statistics.mixed2M += change.mixed2M
        statistics.mixed1G += (new1G.count.isMixed ? 1 : 0) - (old1G.count.isMixed ? 1 : 0)
    }

    /// 2 MiB frames of one 1 GiB frame whose entries are exact.
    private func setWhole2M(from start: Int, to end: Int, differs: Bool, _ change: inout FrameChange) {
        let stop = min(end, shape.lastFrame2M)
        setWhole2M(from: start, to: stop, pages: shape.full2M, differs: differs, &change)
        if stop < end {
            setWhole2M(from: stop, to: end, pages: shape.pages(inFrame2M: stop), differs: differs, &change)
        }
    }

    @inline(__always)
    private func setWhole2M(
        from start: Int, to end: Int, pages: Int, differs: Bool, _ change: inout FrameChange
    ) {
        let target = FrameCount.stale(all: differs)
        let table = frames2M
        var before = 0
        var unmixed = 0
        var index = start
        while index < end {
            let old = table[index].count
            before &+= old.count(of: pages)
            unmixed &+= old.isMixed ? 1 : 0
            table[index] = Frame2M(old.isAll(differs) ? old : target)
            index &+= 1
        }
        change.differing += (differs ? pages * (end - start) : 0) - before
        change.mixed2M -= unmixed
    }

    /// Part of a 2 MiB frame, 64 pages at a time.
    private func setPart(
        ofFrame2M index: Int, from start: Int, to end: Int, differs: Bool, _ change: inout FrameChange
    ) {
        let old = frames2M[index].count
        if old.isAll(differs) { return }
        if old.isStale { fillBits(ofFrame2M: index, with: !differs) }
        var changed = 0
        var page = start
        while page < end {
            let mask = Self.mask(from: page, to: end)
            let word = words[page &>> 6]
            changed += ((differs ? ~word : word) & mask).nonzeroBitCount
            words[page &>> 6] = differs ? word | mask : word & ~mask
            page = (page | 63) + 1
        }
        let delta = differs ? changed : -changed
        let pages = shape.pages(inFrame2M: index)
        let new = FrameCount(old.count(of: pages) + delta, of: pages)
        frames2M[index] = Frame2M(new)
        change.differing += delta
        change.mixed2M += (new.isMixed ? 1 : 0) - (old.isMixed ? 1 : 0)
    }

    // MARK: - Pushing down

    /// Makes the 2 MiB entries below a uniform 1 GiB frame exact, before some of them change.
    @inline(never)
    private func writeEntries(belowFrame1G index1G: Int, differs: Bool) {
        frames2M.fill(
            from: index1G * FrameShape.fanout, count: FrameShape.fanout, with: Frame2M(.stale(all: differs)))
    }

    /// Makes the bits below a uniform 2 MiB frame exact, before some of them change.
    @inline(never)
    private func fillBits(ofFrame2M index: Int, with differs: Bool) {
        let first = index &<< shape.shift2M
        let bits: UInt64 = differs ? .max : 0
        if shape.shift2M >= 6 {
            words.fill(from: first &>> 6, count: shape.full2M &>> 6, with: bits)
        } else {
            // 64 KiB pages: two frames share a word.
            let mask = Self.mask(from: first, to: first + shape.full2M)
            words[first &>> 6] = (words[first &>> 6] & ~mask) | (bits & mask)
        }
    }
}

/// What a change below a 1 GiB frame adds up to.
private struct FrameChange {
    var differing = 0
    var mixed2M = 0
}
