import CGmem
import GuestMemory

/// A kernel that answers like the emulator until it is armed, and from then on says yes to every ioctl at
/// once and does nothing: what is left of a conversion's time is the library's own.
final class InstantKernel: SystemCalls, @unchecked Sendable {
    private let emulator: EmulatedKernel
    var isArmed = false

    init(_ emulator: EmulatedKernel) { self.emulator = emulator }

    func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        isArmed ? 0 : emulator.ioctl(descriptor, request, argument)
    }

    var isEmulated: Bool { true }
    var pageSize: Int { emulator.pageSize }
    func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int { unsafe emulator.open(path, flags) }
    func close(_ descriptor: Int32) -> Int { emulator.close(descriptor) }
    func dup(_ descriptor: Int32) -> Int { emulator.dup(descriptor) }
    func setCloseOnExec(_ descriptor: Int32) -> Int { emulator.setCloseOnExec(descriptor) }
    func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int {
        unsafe emulator.fstat(descriptor, status)
    }
    func pread(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64) -> Int {
        unsafe emulator.pread(descriptor, buffer, count, offset)
    }
    func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int {
        emulator.lseek(descriptor, offset, whence)
    }
    func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
        emulator.fallocate(descriptor, mode, offset, length)
    }
    func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32, _ offset: Int64
    ) -> Int { emulator.mmap(address, length, protection, flags, descriptor, offset) }
    func munmap(_ address: UInt, _ length: Int) -> Int { emulator.munmap(address, length) }
    func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int {
        emulator.mprotect(address, length, protection)
    }
    func munlock(_ address: UInt, _ length: Int) -> Int { emulator.munlock(address, length) }
    func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int {
        emulator.madvise(address, length, advice)
    }
    func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int { unsafe emulator.random(buffer, count) }
    func now() -> UInt64 { emulator.now() }
    func sleep(nanoseconds: UInt64) -> Int { emulator.sleep(nanoseconds: nanoseconds) }
    func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        unsafe emulator.wait(word, expected, deadline)
    }
    func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int { unsafe emulator.wake(word) }
}
