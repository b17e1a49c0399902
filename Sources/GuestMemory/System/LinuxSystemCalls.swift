public import CGmem

/// The kernel of this machine.
public final class LinuxSystemCalls: SystemCalls {
    public static let shared = LinuxSystemCalls()

    public let pageSize = cgmem_page_size()
    public var isEmulated: Bool { false }

    private init() {}

    public func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int { unsafe cgmem_open(path, flags) }
    public func close(_ descriptor: Int32) -> Int { cgmem_close(descriptor) }
    public func dup(_ descriptor: Int32) -> Int { cgmem_dup(descriptor) }
    public func setCloseOnExec(_ descriptor: Int32) -> Int { cgmem_set_close_on_exec(descriptor) }
    public func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int {
        unsafe cgmem_fstat(descriptor, status)
    }
    public func pread(
        _ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64
    ) -> Int {
        unsafe cgmem_pread(descriptor, buffer, count, offset)
    }
    public func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int {
        cgmem_lseek(descriptor, offset, whence)
    }
    public func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
        cgmem_fallocate(descriptor, mode, offset, length)
    }

    public func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        cgmem_ioctl(descriptor, UInt(request), argument)
    }

    public func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32,
        _ offset: Int64
    ) -> Int {
        cgmem_mmap(address, length, protection, flags, descriptor, offset)
    }
    public func munmap(_ address: UInt, _ length: Int) -> Int { cgmem_munmap(address, length) }
    public func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int {
        cgmem_mprotect(address, length, protection)
    }
    public func munlock(_ address: UInt, _ length: Int) -> Int { cgmem_munlock(address, length) }
    public func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int {
        cgmem_madvise(address, length, advice)
    }

    public func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        unsafe cgmem_getrandom(buffer, count)
    }
    public func now() -> UInt64 { cgmem_monotonic_now() }
    public func sleep(nanoseconds: UInt64) -> Int { cgmem_sleep(nanoseconds) }
    public func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        unsafe cgmem_futex_wait(word, expected, deadline)
    }
    public func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int { unsafe cgmem_futex_wake(word) }
}
