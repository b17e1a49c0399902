public import CGmem

/// The one seam between the library and a kernel: what the library itself calls, and nothing else.
///
/// Every call takes the kernel's raw arguments and returns a value, or -errno. `LinuxSystemCalls` asks
/// the kernel of this machine; `EmulatedKernel` answers like a kernel that converts guest memory.
/// Everything above the seam is written once, and the only question it may ask about the other side is
/// `isEmulated`. Addresses travel as integers, because that is what they are to a kernel.
public protocol SystemCalls: AnyObject, Sendable {
    /// Whether privacy is kept by an emulated kernel in this process (level `emulated`).
    var isEmulated: Bool { get }
    /// Bytes in a page: a power of two, the same for the whole life of the process.
    var pageSize: Int { get }

    // Descriptors and files.
    func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int
    func close(_ descriptor: Int32) -> Int
    /// The copy is close-on-exec.
    func dup(_ descriptor: Int32) -> Int
    func setCloseOnExec(_ descriptor: Int32) -> Int
    func fstat(_ descriptor: Int32, _ status: UnsafeMutablePointer<cgmem_stat>) -> Int
    func pread(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64) -> Int
    func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int
    func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int

    /// `argument` is a pointer or a plain value, as the request wants it.
    func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int

    // Mappings.
    func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32,
        _ offset: Int64
    ) -> Int
    func munmap(_ address: UInt, _ length: Int) -> Int
    func mprotect(_ address: UInt, _ length: Int, _ protection: Int32) -> Int
    func munlock(_ address: UInt, _ length: Int) -> Int
    func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int

    // Randomness and time.
    func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int
    /// Nanoseconds of a monotonic clock.
    func now() -> UInt64
    /// 0, or -EINTR when a signal arrived.
    func sleep(nanoseconds: UInt64) -> Int
    /// Waits while `word` holds `expected`, until `deadline` on `now()`'s clock (`UInt64.max`: for ever).
    /// 0 when woken, -EAGAIN when the word had changed already, -ETIMEDOUT, -EINTR.
    func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int
    /// Wakes every waiter on `word` and returns how many there were.
    func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int
}

/// `ioctl` with a structure that the kernel reads and may write. No method of the protocol: Embedded Swift
/// cannot call a generic one on `any`.
@inline(__always)
package func ioctl<Argument: BitwiseCopyable>(
    _ system: any SystemCalls, _ descriptor: Int32, _ request: UInt32, _ argument: inout Argument
) -> Int {
    // SAFETY: the pointer is valid for the call, and no KVM call keeps it.
    unsafe withUnsafeMutablePointer(to: &argument) { pointer in
        system.ioctl(descriptor, request, UInt(bitPattern: pointer))
    }
}
