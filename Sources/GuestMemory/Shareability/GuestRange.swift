/// Guest-physical bytes: a start and a length that cannot wrap unnoticed.
///
/// Any two numbers make a `GuestRange`, because guests hand over any two numbers: what an operation
/// accepts, it checks and says.
public struct GuestRange: BitwiseCopyable, Equatable, Sendable {
    /// The first byte's guest-physical address (GPA).
    public var address: UInt64
    /// Bytes.
    public var size: UInt64

    /// Any address and size, in bytes; see the type.
    public init(address: UInt64, size: UInt64) {
        self.address = address
        self.size = size
    }

    /// The addresses of a half-open range.
    public init(_ range: Range<UInt64>) {
        self.init(address: range.lowerBound, size: range.upperBound - range.lowerBound)
    }

    /// The address after the last byte, nil where that does not fit in 64 bits.
    public var end: UInt64? {
        let (end, overflow) = address.addingReportingOverflow(size)
        return overflow ? nil : end
    }

    /// The whole pages (or other units, a power of two in bytes) that hold the range; nil where those wrap.
    public func roundedOut(to unit: UInt64) -> GuestRange? {
        guard let end, case let (last, overflow) = end.addingReportingOverflow(unit - 1), !overflow else { return nil }
        return GuestRange(address & ~(unit - 1)..<max(last & ~(unit - 1), address & ~(unit - 1)))
    }

    /// Whether two ranges that do not wrap have bytes in common.
    func overlaps(_ other: GuestRange) -> Bool {
        address < other.address &+ other.size && other.address < address &+ size
    }
}

extension GuestRange: CustomStringConvertible {
    /// Half-open, e.g. `0x1000..<0x3000`.
    public var description: String {
        guard let end else { return "\(hex(address)) + \(hex(size))" }
        return "\(hex(address))..<\(hex(end))"
    }
}
