/// Why an operation was refused or failed. Nothing changed unless `outcome` says otherwise.
public struct GuestMemoryError: Error, Sendable {
    /// What kind of failure. Stable: numbers are never reused, and new ones may be added.
    public struct Code: RawRepresentable, Equatable, Sendable {
        public var rawValue: Int32
        public init(rawValue: Int32) { self.rawValue = rawValue }
        private init(_ rawValue: Int32) { self.rawValue = rawValue }

        /// An empty, unaligned or wrapping range.
        public static let badRange = Code(1)
        /// Part of the range belongs to no region.
        public static let notGuestMemory = Code(2)
        /// Regions that overlap in guest-physical space or in their file.
        public static let overlap = Code(3)
        /// A size of 0, or not a multiple of the page.
        public static let badSize = Code(4)
        /// A descriptor that is closed, or not what it should be.
        public static let badDescriptor = Code(5)
        /// The device or file does not exist.
        public static let notFound = Code(6)
        /// Permission was denied.
        public static let noPermission = Code(7)
        /// This kernel, or this VM type, does not offer what was asked.
        public static let unsupported = Code(8)
        /// Privacy would be enforced at a weaker level than the caller requires.
        public static let levelTooWeak = Code(9)
        /// The kernel has no memory for the operation.
        public static let noMemory = Code(10)
        /// Somebody held a page until the deadline.
        public static let held = Code(11)
        /// The caller asked to stop.
        public static let cancelled = Code(12)
        /// The page is not shared, so the host has no business in it.
        public static let notShared = Code(13)
        /// A payload source is shorter than said, or shrank while it was read.
        public static let shortSource = Code(14)
        /// What was read back differs from what was written.
        public static let verifyFailed = Code(15)
        /// A system call failed in a way the library has no better word for.
        public static let systemCall = Code(16)
        /// An undo failed: no more conversions, the guest must be shut down.
        public static let poisoned = Code(17)
        /// The object was closed, or belongs to the process this one was forked from.
        public static let closed = Code(18)
        /// Something still uses the memory.
        public static let inUse = Code(19)
        /// The caller holds, itself, what it would wait for.
        public static let deadlock = Code(20)
    }

    /// What kind of failure: what programs decide by.
    public var code: Code
    /// The call that failed or would have been made, e.g. `KVM_CREATE_GUEST_MEMFD`.
    public var operation: String
    /// What the kernel answered; where it was not asked, what it would be in a call of its kind.
    public var errno: LinuxErrno?
    /// The guest-physical bytes concerned, where known.
    public var range: GuestRange?
    /// What happened and what to do, in a sentence.
    public var message: String
    /// What state a failed conversion left (of `populate`: what is still shared); nil where none began.
    public var outcome: ConversionOutcome?

    /// For tests of code that handles errors.
    public init(
        _ code: Code, _ operation: String, _ errno: LinuxErrno? = nil, range: GuestRange? = nil,
        _ message: String
    ) {
        self.code = code
        self.operation = operation
        self.errno = errno
        self.range = range
        self.message = message
    }
}

extension GuestMemoryError: CustomStringConvertible {
    public var description: String {
        var text = operation
        if let errno { text += ": \(errno)" }
        text += ": \(message)"
        if let range { text += " [\(range)]" }
        text += " (\(code)"
        if let outcome { text += ", \(outcome)" }
        return text + ")"
    }
}

extension GuestMemoryError.Code: CustomStringConvertible {
    public var description: String {
        switch self {
        case .badRange: "badRange"
        case .notGuestMemory: "notGuestMemory"
        case .overlap: "overlap"
        case .badSize: "badSize"
        case .badDescriptor: "badDescriptor"
        case .notFound: "notFound"
        case .noPermission: "noPermission"
        case .unsupported: "unsupported"
        case .levelTooWeak: "levelTooWeak"
        case .noMemory: "noMemory"
        case .held: "held"
        case .cancelled: "cancelled"
        case .notShared: "notShared"
        case .shortSource: "shortSource"
        case .verifyFailed: "verifyFailed"
        case .systemCall: "systemCall"
        case .poisoned: "poisoned"
        case .closed: "closed"
        case .inUse: "inUse"
        case .deadlock: "deadlock"
        default: "code \(rawValue)"
        }
    }
}

/// `0x` and hexadecimal digits.
package func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
