/// Who may touch a page.
public enum Shareability: UInt8, BitwiseCopyable, Equatable, Sendable, CaseIterable {
    /// The guest only.
    case `private` = 0
    /// The guest and the host.
    case shared = 1

    /// The other one.
    public var opposite: Shareability { self == .private ? .shared : .private }
}

extension Shareability: CustomStringConvertible {
    public var description: String { self == .private ? "private" : "shared" }
}
