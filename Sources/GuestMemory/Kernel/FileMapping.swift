import CGmem

/// A mapping of a guest_memfd in this process, unmapped when it goes.
package struct FileMapping: ~Copyable {
    /// The first byte's address. Dereferenced only for pages that are shared.
    package let address: UInt
    /// Bytes.
    package let size: Int
    private let system: any SystemCalls

    init(address: UInt, size: Int, _ system: any SystemCalls) {
        self.address = address
        self.size = size
        self.system = system
    }

    // Not in a forked child, where the address may be something else by now: see `MemoryFile.abandon`.
    deinit { _ = system.munmap(address, size) }

    /// Keeps the mapping out of forked children and core dumps: neither follows later conversions.
    package func keepFromChildrenAndDumps() {
        _ = system.madvise(address, size, CGMEM_MADV_DONTFORK)
        _ = system.madvise(address, size, CGMEM_MADV_DONTDUMP)
    }

    /// Who may touch the page at `offset`, as the kernel sees it: MADV_POPULATE_READ (Linux 5.14) maps
    /// it, or fails with EFAULT. Allocates the page where it is a hole. nil for any other answer.
    package func probe(offset: Int = 0, pages: Int = 1) -> Shareability? {
        let result = repeatingInterrupted {
            system.madvise(
                address + UInt(offset), pages * system.pageSize, CGMEM_MADV_POPULATE_READ)
        }
        switch result {
        case 0: return .shared
        case LinuxErrno.badAddress.result: return .private
        default: return nil
        }
    }
}
