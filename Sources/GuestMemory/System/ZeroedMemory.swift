import CGmem

/// Zero-filled memory that costs nothing until it is touched: pages straight from the kernel.
///
/// Not `calloc`: glibc raises its mmap threshold as it goes and would then hand out heap that it has to
/// clear by hand, 32 MiB of it for a terabyte's ledger.
@safe
package struct ZeroedMemory: ~Copyable {
    /// Valid for `count` bytes while this value lives.
    package let base: UnsafeMutableRawPointer
    package let count: Int

    /// nil when the process may not have that much address space.
    package init?(count: Int) {
        let result = cgmem_mmap(
            0, count, CGMEM_PROT_READ | CGMEM_PROT_WRITE,
            CGMEM_MAP_PRIVATE | CGMEM_MAP_ANONYMOUS | CGMEM_MAP_NORESERVE, -1, 0)
        guard result > 0, let base = unsafe UnsafeMutableRawPointer(bitPattern: result) else { return nil }
        unsafe self.base = unsafe base
        self.count = count
    }

    deinit { _ = unsafe cgmem_munmap(UInt(bitPattern: base), count) }
}
