import GuestMemory

/// A kernel that answers like the emulator until it is armed, and from then on says yes to every ioctl at
/// once and does nothing: what is left of a conversion's time is the library's own.
final class InstantKernel: ForwardingSystemCalls, @unchecked Sendable {
    var isArmed = false

    override func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        isArmed ? 0 : next.ioctl(descriptor, request, argument)
    }
}
