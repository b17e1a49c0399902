/// Who keeps the host out of private pages. Only `kernel` is a security boundary.
public enum Level: UInt8, Equatable, Sendable, CaseIterable, Comparable {
    /// An emulated kernel's mappings, in this process: development and tests without KVM.
    case emulated = 0
    /// This process's own view of a real guest_memfd, by guard pages: development on today's kernels.
    case process = 1
    /// The kernel.
    case kernel = 2

    public static func < (left: Level, right: Level) -> Bool { left.rawValue < right.rawValue }

    /// The signal that a touch of a private page raises: `SIGBUS` (7) or `SIGSEGV` (11).
    public var signal: Int32 { self == .process ? 11 : 7 }
}

extension Level: CustomStringConvertible {
    public var description: String {
        switch self {
        case .emulated: "emulated"
        case .process: "process"
        case .kernel: "kernel"
        }
    }
}

/// How a page's state is changed.
public enum ConversionMethod: BitwiseCopyable, Equatable, Sendable {
    /// By the kernel, one backing for both states.
    case inPlace(Dialect)
    /// By guard pages on this process's view of a guest_memfd that is shared for life (level `process`).
    case guardPages

    /// What answers are classified by: guard pages are never busy and never leave traces.
    var dialect: Dialect? {
        if case .inPlace(let dialect) = self { dialect } else { nil }
    }

    /// The call's name, for messages.
    public func call(to state: Shareability) -> StaticString {
        switch self {
        case .inPlace(let dialect): dialect.call(to: state)
        case .guardPages: state == .shared ? "madvise(MADV_GUARD_REMOVE)" : "madvise(MADV_GUARD_INSTALL)"
        }
    }
}

extension ConversionMethod: CustomStringConvertible {
    public var description: String {
        switch self {
        case .inPlace(let dialect): "in place, dialect \(dialect.label)"
        case .guardPages: "guard pages in this process"
        }
    }
}
