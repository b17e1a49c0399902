/// An error number of the kernel, as the positive value of `errno`.
///
/// An own type, because Embedded Swift has no Glibc to import; `CGmem/layout.c` pins the numbers.
public struct LinuxErrno: RawRepresentable, Equatable, Sendable {
    public var rawValue: Int32

    public init(rawValue: Int32) { self.rawValue = rawValue }
    init(_ rawValue: Int32) { self.rawValue = rawValue }

    public static let notPermitted = LinuxErrno(1)
    public static let noSuchFile = LinuxErrno(2)
    public static let interrupted = LinuxErrno(4)
    public static let io = LinuxErrno(5)
    public static let noSuchDeviceOrAddress = LinuxErrno(6)
    public static let badFileDescriptor = LinuxErrno(9)
    public static let again = LinuxErrno(11)
    public static let noMemory = LinuxErrno(12)
    public static let permissionDenied = LinuxErrno(13)
    public static let badAddress = LinuxErrno(14)
    public static let busy = LinuxErrno(16)
    public static let exists = LinuxErrno(17)
    public static let noDevice = LinuxErrno(19)
    public static let invalid = LinuxErrno(22)
    public static let fileTableFull = LinuxErrno(23)
    public static let tooManyOpenFiles = LinuxErrno(24)
    public static let notTTY = LinuxErrno(25)
    public static let fileTooBig = LinuxErrno(27)
    public static let noSpace = LinuxErrno(28)
    public static let illegalSeek = LinuxErrno(29)
    public static let deadlock = LinuxErrno(35)
    public static let notImplemented = LinuxErrno(38)
    public static let noData = LinuxErrno(61)
    public static let overflow = LinuxErrno(75)
    public static let notSupported = LinuxErrno(95)
    public static let timedOut = LinuxErrno(110)
    public static let canceled = LinuxErrno(125)
    public static let hardwarePoison = LinuxErrno(133)

    /// The error in a system call's answer, nil when it succeeded.
    @inlinable
    package init?(result: Int) {
        if result >= 0 { return nil }
        self.init(rawValue: Int32(truncatingIfNeeded: -result))
    }

    /// What a `SystemCalls` implementation returns for this error.
    package var result: Int { -Int(rawValue) }
}

extension LinuxErrno: CustomStringConvertible {
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
        case 23: "ENFILE"
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
