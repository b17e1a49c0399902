extension ShareabilityMap {
    /// The first run of pages that are not in the wanted state: as long as it can be within the range, across
    /// frame borders, nil when all of the range is as wanted.
    ///
    /// To see every run, go on from the end of the last one.
    package func nextRun(notIn wanted: Shareability, within range: PageRange) -> PageRange? {
        check(range)
        let end = range.end
        let first = firstPage(in: wanted.opposite, from: range.start, to: end)
        if first.page == end { return nil }
        // Most runs of a fragmented file are short and end in the word they begin in. Where a word or a frame
        // ends, what comes next has to be looked up from the top.
        let frameEnd = ((first.page &>> shape.shift2M) &+ 1) &<< shape.shift2M
        var stop = min(first.page &+ first.known, frameEnd)
        if first.known == 0 || stop & 63 == 0 || stop == frameEnd {
            stop = firstPage(in: wanted, from: stop, to: end).page
        }
        return PageRange(start: first.page, count: min(stop, end) &- first.page)
    }

    /// The state of all pages of a range, nil when it holds both states, or no page.
    package func uniformState(of range: PageRange) -> Shareability? {
        check(range)
        if range.isEmpty { return nil }
        let first = state(ofPage: range.start)
        return firstPage(in: first.opposite, from: range.start, to: range.end).page == range.end ? first : nil
    }

    /// How many pages of a range are in a state. Whole frames are not looked into.
    package func countPages(in state: Shareability, within range: PageRange) -> Int {
        check(range)
        let differing = range.count == pageCount ? self.differing : countDiffering(range)
        return state == initially ? range.count - differing : differing
    }

    /// The first page in a state from `start` on, or `end`. With it, how many pages from there on have the
    /// same bit in the same word, 0 where bits were not looked at.
    @inline(__always)
    private func firstPage(in state: Shareability, from start: Int, to end: Int) -> (page: Int, known: Int) {
        let differs = state != initially
        // Turns the bits looked for into ones.
        let flip: UInt64 = differs ? 0 : .max
        var page = start
        while page < end {
            let index1G = page &>> shape.shift1G
            let count1G = frames1G[index1G].count
            let end1G = (index1G &+ 1) &<< shape.shift1G
            guard count1G.isMixed else {
                if count1G.differs == differs { return (page, 0) }
                page = end1G
                continue
            }
            let stop1G = min(end, end1G)
            while page < stop1G {
                let index2M = page &>> shape.shift2M
                let count2M = frames2M[index2M].count
                let end2M = (index2M &+ 1) &<< shape.shift2M
                guard count2M.isMixed else {
                    if count2M.differs == differs { return (page, 0) }
                    page = end2M
                    continue
                }
                let stop2M = min(end, end2M)
                var index = page &>> 6
                let last = (stop2M &- 1) &>> 6
                var found = (words[index] ^ flip) & (.max &<< UInt64(truncatingIfNeeded: page))
                while found == 0, index < last {
                    index &+= 1
                    found = words[index] ^ flip
                }
                // With 64 KiB pages the word's upper half is another frame's.
                let bit = found.trailingZeroBitCount
                let candidate = (index &<< 6) &+ bit
                if candidate < stop2M {
                    return (candidate, (~(found &>> UInt64(truncatingIfNeeded: bit))).trailingZeroBitCount)
                }
                page = end2M
            }
        }
        return (end, 0)
    }

    private func countDiffering(_ range: PageRange) -> Int {
        let end = range.end
        var page = range.start
        var sum = 0
        while page < end {
            let index1G = page &>> shape.shift1G
            let pages1G = shape.pages(inFrame1G: index1G)
            let count1G = frames1G[index1G].count
            let start1G = index1G &<< shape.shift1G
            let stop1G = min(end, start1G &+ pages1G)
            if page == start1G && stop1G == start1G &+ pages1G {
                sum &+= count1G.count(of: pages1G)
            } else if count1G.isMixed {
                sum &+= countDiffering(inMixed1GFrom: page, to: stop1G)
            } else if count1G.differs {
                sum &+= stop1G - page
            }
            page = stop1G
        }
        return sum
    }

    private func countDiffering(inMixed1GFrom start: Int, to end: Int) -> Int {
        var page = start
        var sum = 0
        while page < end {
            let index2M = page &>> shape.shift2M
            let pages2M = shape.pages(inFrame2M: index2M)
            let count2M = frames2M[index2M].count
            let start2M = index2M &<< shape.shift2M
            let stop2M = min(end, start2M &+ pages2M)
            if page == start2M && stop2M == start2M &+ pages2M {
                sum &+= count2M.count(of: pages2M)
            } else if count2M.isMixed {
                while page < stop2M {
                    sum &+= (words[page &>> 6] & Self.mask(from: page, to: stop2M)).nonzeroBitCount
                    page = (page | 63) &+ 1
                }
            } else if count2M.differs {
                sum &+= stop2M - page
            }
            page = stop2M
        }
        return sum
    }
}
