import CGmem

@testable import GuestMemory

/// Passes every call on. Tests override the ones they want to see or to break.
class ForwardingKernel: SystemCalls, @unchecked Sendable {
    let next: any SystemCalls

    init(_ next: any SystemCalls = LinuxSystemCalls.shared) { self.next = next }

    var isEmulated: Bool { next.isEmulated }
    var pageSize: Int { next.pageSize }
    func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int { unsafe next.open(path, flags) }
    func close(_ descriptor: Int32) -> Int { next.close(descriptor) }
    func dup(_ descriptor: Int32) -> Int { next.dup(descriptor) }
    func setCloseOnExec(_ descriptor: Int32) -> Int { next.setCloseOnExec(descriptor) }
    func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int {
        unsafe next.fstat(descriptor, status)
    }
    func pread(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64) -> Int {
        unsafe next.pread(descriptor, buffer, count, offset)
    }
    func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int {
        next.lseek(descriptor, offset, whence)
    }
    func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
        next.fallocate(descriptor, mode, offset, length)
    }
    func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        next.ioctl(descriptor, request, argument)
    }
    func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32, _ offset: Int64
    ) -> Int { next.mmap(address, length, protection, flags, descriptor, offset) }
    func munmap(_ address: UInt, _ length: Int) -> Int { next.munmap(address, length) }
    func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int {
        next.mprotect(address, length, protection)
    }
    func munlock(_ address: UInt, _ length: Int) -> Int { next.munlock(address, length) }
    func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int { next.madvise(address, length, advice) }
    func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int { unsafe next.random(buffer, count) }
    func now() -> UInt64 { next.now() }
    func sleep(nanoseconds: UInt64) -> Int { next.sleep(nanoseconds: nanoseconds) }
    func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        unsafe next.wait(word, expected, deadline)
    }
    func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int { unsafe next.wake(word) }
}
