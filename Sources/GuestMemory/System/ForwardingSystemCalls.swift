public import CGmem

/// Passes every call on: to be subclassed by whoever wants to see, count or break some of them.
///
/// Calls come from any thread; a subclass with state of its own guards it.
open class ForwardingSystemCalls: SystemCalls, @unchecked Sendable {
    public let next: any SystemCalls

    public init(_ next: any SystemCalls = LinuxSystemCalls.shared) { self.next = next }

    open var isEmulated: Bool { next.isEmulated }
    open var pageSize: Int { next.pageSize }
    open func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int { unsafe next.open(path, flags) }
    open func close(_ descriptor: Int32) -> Int { next.close(descriptor) }
    open func dup(_ descriptor: Int32) -> Int { next.dup(descriptor) }
    open func setCloseOnExec(_ descriptor: Int32) -> Int { next.setCloseOnExec(descriptor) }
    open func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int {
        unsafe next.fstat(descriptor, status)
    }
    open func pread(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64) -> Int {
        unsafe next.pread(descriptor, buffer, count, offset)
    }
    open func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int {
        next.lseek(descriptor, offset, whence)
    }
    open func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
        next.fallocate(descriptor, mode, offset, length)
    }
    open func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        next.ioctl(descriptor, request, argument)
    }
    open func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32, _ offset: Int64
    ) -> Int { next.mmap(address, length, protection, flags, descriptor, offset) }
    open func munmap(_ address: UInt, _ length: Int) -> Int { next.munmap(address, length) }
    open func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int {
        next.mprotect(address, length, protection)
    }
    open func munlock(_ address: UInt, _ length: Int) -> Int { next.munlock(address, length) }
    open func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int { next.madvise(address, length, advice) }
    open func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int { unsafe next.random(buffer, count) }
    open func now() -> UInt64 { next.now() }
    open func sleep(nanoseconds: UInt64) -> Int { next.sleep(nanoseconds: nanoseconds) }
    open func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        unsafe next.wait(word, expected, deadline)
    }
    open func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int { unsafe next.wake(word) }
}
