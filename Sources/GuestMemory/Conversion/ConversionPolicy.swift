/// What a conversion does when it cannot have all of its pages: how often it tries, how long, whom it
/// asks, and what becomes of the rest.
///
/// Nobody upstream gives figures; these are ours, documented and all settable. A spurious EAGAIN (23 in
/// 609,931 conversions on a real in-place kernel) is gone after an immediate retry; a page that a device
/// holds is not, and its owner is asked.
public struct ConversionPolicy: Sendable {
    /// A page that a conversion cannot have yet.
    public struct Busy: Sendable {
        /// The page's guest-physical address.
        public var address: UInt64
        /// Its offset in the guest_memfd, in bytes.
        public var fileOffset: UInt64
        /// The labels of the leases and copies known on it (where these are what is waited for: on the
        /// whole range asked for). Empty: the holder is not one of ours.
        public var leases: [String]
        /// Refused attempts so far, counted per request.
        public var attempt: Int
        /// Nanoseconds since the first refusal.
        public var elapsed: UInt64

        /// For tests of a hook.
        public init(
            address: UInt64, fileOffset: UInt64, leases: [String], attempt: Int = 0, elapsed: UInt64 = 0
        ) {
            self.address = address
            self.fileOffset = fileOffset
            self.leases = leases
            self.attempt = attempt
            self.elapsed = elapsed
        }
    }

    /// What `onBusy` answers.
    public enum Decision: Sendable {
        /// Wait a little, then try again.
        case backOff
        /// Try again at once: the page was let go.
        case retry
        /// Fail now.
        case giveUp
    }

    /// What pages mean that belong to no region.
    public enum Holes: Sendable {
        /// A page that belongs to no region makes the range invalid; nothing is converted.
        case refuse
        /// Only the pages that belong to a region are meant; there must be at least one.
        case skip
    }

    /// What becomes of the runs that were converted before the one that failed.
    public enum OnFailure: Sendable {
        /// Undo where contents survive a conversion, keep on SNP and TDX.
        case byVMType
        /// Runs that were already converted are converted back.
        case undo
        /// Runs that were already converted stay so, and the outcome lists them.
        case keep
    }

    /// What a page that somebody holds until the deadline means for the others.
    public enum HeldPages: Sendable {
        /// The whole conversion fails, naming the page.
        case fail
        /// Everything else is converted and stays so; the error's outcome lists it.
        case convertAround
    }

    /// Attempts after the first that follow without a pause.
    public var immediateRetries = 2
    /// Nanoseconds. Doubles with every pause.
    public var firstPause: UInt64 = 20_000
    /// Nanoseconds.
    public var longestPause: UInt64 = 5_000_000
    /// Each pause is lengthened or shortened at random by up to this much of it, at most 100.
    public var jitterPercent: UInt64 = 25
    /// Nanoseconds from the first refusal until the conversion fails.
    public var deadline: UInt64
    /// Attempts in all when the kernel has no memory for its bookkeeping.
    public var noMemoryTries = 3
    /// What a page held until the deadline means for the others.
    public var heldPages = HeldPages.fail
    /// What a hole in the range means.
    public var holes = Holes.refuse
    /// What becomes of the runs before the one that failed.
    public var onFailure = OnFailure.byVMType

    /// Asked, outside every lock, before each pause: the place to make a device let go.
    public var onBusy: (@Sendable (Busy) -> Decision)?
    /// Asked, outside every lock, after ENOMEM: the place to free some. `false` gives up.
    public var onNoMemory: (@Sendable (_ attempt: Int) -> Bool)?
    /// Looked at before and after every pause: a cancel token, or a vCPU's `immediate_exit`.
    public var isCancelled: (@Sendable () -> Bool)?

    /// For a VMM's own call: up to 5 s.
    public static var vmm: ConversionPolicy { ConversionPolicy(deadline: 5_000_000_000) }
    /// For a vCPU thread, whose guest waits with interrupts off: up to 1 s.
    public static var vcpu: ConversionPolicy { ConversionPolicy(deadline: 1_000_000_000) }

    /// The defaults, with a deadline in nanoseconds from the first refusal.
    public init(deadline: UInt64) { self.deadline = deadline }
}

extension ConversionPolicy: CustomStringConvertible {
    public var description: String {
        "\(immediateRetries) immediate retries, then pauses of \(firstPause / 1000) µs doubling to "
            + "\(longestPause / 1000) µs (±\(jitterPercent) %) until \(deadline / 1_000_000) ms, "
            + "\(noMemoryTries) tries without memory, held pages: \(heldPages)"
    }
}
