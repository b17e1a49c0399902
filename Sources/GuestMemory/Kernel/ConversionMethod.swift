/// How a page's state is changed.
public enum ConversionMethod: BitwiseCopyable, Equatable, Sendable {
    /// By the kernel, one backing for both states.
    case inPlace(ConversionDialect)
    /// By guard pages on this process's view of a guest_memfd that is shared for life (level `process`).
    case guardPages

    /// What answers are classified by; nil for guard pages, which nobody can hold.
    var dialect: ConversionDialect? {
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
