/// An error number of the kernel, as the positive value of `errno`.
///
/// An own type, because Embedded Swift has no Glibc to import; `CGmem/layout.c` pins the numbers.
public struct Errno: RawRepresentable, Equatable, Sendable {
    public var rawValue: Int32

    public init(rawValue: Int32) { self.rawValue = rawValue }
    init(_ rawValue: Int32) { self.rawValue = rawValue }

    public static let notPermitted = Errno(1)
    public static let noSuchFile = Errno(2)
    public static let interrupted = Errno(4)
    public static let io = Errno(5)
    public static let noSuchDeviceOrAddress = Errno(6)
    public static let badFileDescriptor = Errno(9)
    public static let again = Errno(11)
    public static let noMemory = Errno(12)
    public static let permissionDenied = Errno(13)
    public static let badAddress = Errno(14)
    public static let busy = Errno(16)
    public static let exists = Errno(17)
    public static let noDevice = Errno(19)
    public static let invalid = Errno(22)
    public static let tooManyOpenFiles = Errno(24)
    public static let notTTY = Errno(25)
    public static let fileTooBig = Errno(27)
    public static let noSpace = Errno(28)
    public static let illegalSeek = Errno(29)
    public static let deadlock = Errno(35)
    public static let notImplemented = Errno(38)
    public static let noData = Errno(61)
    public static let overflow = Errno(75)
    public static let notSupported = Errno(95)
    public static let timedOut = Errno(110)
    public static let canceled = Errno(125)
    public static let hardwarePoison = Errno(133)

    /// The error in a system call's answer, nil when it succeeded.
    @inlinable
    package init?(result: Int) {
        if result >= 0 { return nil }
        self.init(rawValue: Int32(truncatingIfNeeded: -result))
    }

    /// What a `SystemCalls` implementation returns for this error.
    package var result: Int { -Int(rawValue) }
}

extension Errno: CustomStringConvertible {
    /// The symbolic name, e.g. `EAGAIN`.
    public var description: String {
        switch rawValue {
        case 1: "EPERM"
        case 2: "ENOENT"
        case 4: "EINTR"
        case 5: "EIO"
        case 6: "ENXIO"
        case 7: "E2BIG"
        case 9: "EBADF"
        case 11: "EAGAIN"
        case 12: "ENOMEM"
        case 13: "EACCES"
        case 14: "EFAULT"
        case 16: "EBUSY"
        case 17: "EEXIST"
        case 19: "ENODEV"
        case 22: "EINVAL"
        case 24: "EMFILE"
        case 25: "ENOTTY"
        case 27: "EFBIG"
        case 28: "ENOSPC"
        case 29: "ESPIPE"
        case 32: "EPIPE"
        case 35: "EDEADLK"
        case 38: "ENOSYS"
        case 61: "ENODATA"
        case 75: "EOVERFLOW"
        case 95: "EOPNOTSUPP"
        case 110: "ETIMEDOUT"
        case 125: "ECANCELED"
        case 133: "EHWPOISON"
        default: "errno \(rawValue)"
        }
    }
}
