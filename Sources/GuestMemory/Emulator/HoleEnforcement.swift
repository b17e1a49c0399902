import CGmem

/// Keeping the host out by mapping an empty file over private pages. All of it under the file's lock.
extension EmulatedFile {
    /// Takes pages away from the host. 0, or -errno with nothing changed.
    func cover(_ pages: PageRange) -> Int {
        for mapping in mappings {
            guard let part = mapping.part(showing: pages) else { continue }
            let result = guardian.cover(part)
            if result != 0 {
                restore(pages)
                return result
            }
        }
        return 0
    }

    /// Gives pages to the host. 0, or -errno with nothing changed.
    func uncover(_ pages: PageRange) -> Int {
        for mapping in mappings {
            guard let part = mapping.part(showing: pages) else { continue }
            let result = guardian.uncover(part, backing)
            if result != 0 {
                restore(pages)
                return result
            }
        }
        return 0
    }

    /// Puts every mapping back to what the states say, pieces that the kernel lost on the way included.
    private func restore(_ pages: PageRange) {
        guardian.spendReserve()
        for mapping in mappings { _ = arrange(pages, in: mapping) }
        guardian.keepReserve()
    }

    private func arrange(_ pages: PageRange, in mapping: HostMapping) -> Int {
        var rest = pages
        while !rest.isEmpty {
            let state = map.state(ofPage: rest.start)
            let end = map.nextRun(notIn: state, within: rest)?.start ?? rest.end
            if let part = mapping.part(showing: PageRange(start: rest.start, count: end - rest.start)) {
                let result = state == .private ? guardian.cover(part) : guardian.uncover(part, backing)
                if result != 0 { return result }
            }
            rest = PageRange(start: end, count: rest.end - end)
        }
        return 0
    }

    /// Covers the private pages of a mapping that nobody knows of yet.
    func coverNewMapping(_ mapping: HostMapping) -> Int {
        guard var rest = mapping.part(showing: allPages)?.pages else { return 0 }
        while let run = map.nextRun(notIn: .shared, within: rest) {
            if let part = mapping.part(showing: run) {
                let result = guardian.cover(part)
                if result != 0 { return result }
            }
            rest = PageRange(start: run.end, count: rest.end - run.end)
        }
        return 0
    }
}
