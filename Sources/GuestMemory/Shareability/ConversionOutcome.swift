/// What a conversion did, exactly.
public enum ConversionOutcome: Sendable, Equatable {
    /// Every page of the range is now in the wanted state, `pages` of them were not before.
    case converted(pages: UInt64)
    /// Every page already was in the wanted state; the kernel was not asked.
    case unchanged
    /// No page changed its state.
    case failed
    /// Exactly these guest-physical runs are now in the wanted state and were not before.
    case partial([GuestRange])
    /// Undoing failed, these runs are in the wanted state. No more conversions; shut the guest down.
    case poisoned([GuestRange])
}

extension ConversionOutcome: CustomStringConvertible {
    public var description: String {
        switch self {
        case .converted(let pages): "converted \(pages) pages"
        case .unchanged: "unchanged"
        case .failed: "nothing changed"
        case .partial(let runs): "partial: \(Self.list(runs))"
        case .poisoned(let runs): "poisoned: \(Self.list(runs))"
        }
    }

    private static func list(_ runs: [GuestRange]) -> String { runs.map { "\($0)" }.joined(separator: ", ") }
}
