import CGmem

/// The list of a file's mappings. Changed under the kernel's mapping lock and the file's; read under
/// either.
extension EmulatedFile {
    func overlaps(_ start: UInt, _ end: UInt) -> Bool { mappings.contains { $0.overlaps(start, end) } }

    /// Takes in a mapping that nobody knows of yet. 0, or -errno when it could not be guarded: then it
    /// must be unmapped.
    func attach(_ mapping: HostMapping) -> Int {
        let result = guardian.isUserfault ? guardNewMapping(mapping) : coverNewMapping(mapping)
        if result == 0 { mappings.append(mapping) }
        if mappings.isEmpty { guarded = GuardedChunks(pageCount: pageCount) }
        return result
    }

    /// The memory between two addresses is not ours any more.
    func forget(_ start: UInt, _ end: UInt) {
        if !overlaps(start, end) { return }
        var left: [HostMapping] = []
        for mapping in mappings {
            if let low = mapping.part(0, start) { left.append(low) }
            if let high = mapping.part(end, UInt.max) { left.append(high) }
        }
        mappings = left
        if mappings.isEmpty { guarded = GuardedChunks(pageCount: pageCount) }
    }

    /// Remembers what pieces that are mapped anew must be given again.
    func note(_ start: UInt, _ end: UInt, _ change: (inout HostMapping) -> Void) {
        var noted: [HostMapping] = []
        for mapping in mappings {
            guard var inside = mapping.part(start, end) else {
                noted.append(mapping)
                continue
            }
            if let low = mapping.part(0, start) { noted.append(low) }
            change(&inside)
            noted.append(inside)
            if let high = mapping.part(end, UInt.max) { noted.append(high) }
        }
        mappings = noted
    }

    /// Whether the page is what this process sees at an address.
    func isMapped(page: Int, at address: UInt, under mappingLock: borrowing Lock) -> Bool {
        mappingLock.withLock {
            mappings.contains { mapping in
                mapping.overlaps(address, address + 1)
                    && mapping.pages.start + Int(address - mapping.address) / pageSize == page
            }
        }
    }

    func unmapAll() {
        lock.lock()
        defer { lock.unlock() }
        for mapping in mappings { _ = cgmem_munmap(mapping.address, mapping.length) }
        mappings = []
    }
}
