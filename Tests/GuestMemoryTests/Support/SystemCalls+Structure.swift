@testable import GuestMemory

extension SystemCalls {
    /// `ioctl` with a structure that the kernel reads and may write, as a VMM's tests would spell it.
    func ioctl<Argument: BitwiseCopyable>(
        _ descriptor: Int32, _ request: UInt32, _ argument: inout Argument
    ) -> Int {
        unsafe withUnsafeMutablePointer(to: &argument) { ioctl(descriptor, request, UInt(bitPattern: $0)) }
    }
}
