/// Who keeps the host out of private pages. Only `kernel` is a security boundary.
public enum PrivacyLevel: UInt8, Equatable, Sendable, CaseIterable, Comparable {
    /// An emulated kernel's mappings, in this process: development and tests without KVM.
    case emulated = 0
    /// This process's own view of a real guest_memfd, by guard pages: development on today's kernels.
    case process = 1
    /// The kernel.
    case kernel = 2

    public static func < (left: PrivacyLevel, right: PrivacyLevel) -> Bool { left.rawValue < right.rawValue }

    /// The signal that a touch of a private page raises: `SIGBUS` (7) or `SIGSEGV` (11).
    public var signal: Int32 { self == .process ? 11 : 7 }
}

extension PrivacyLevel: CustomStringConvertible {
    public var description: String {
        switch self {
        case .emulated: "emulated"
        case .process: "process"
        case .kernel: "kernel"
        }
    }
}
