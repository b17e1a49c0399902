import CGmem

/// What a VM on this kernel can do with guest memory, found by doing it on scratch files of one page.
///
/// No decision rests on a capability number or a kernel version: numbers moved five times and collide
/// across architectures. They are asked, and stand in the report beside what the kernel then did.
public struct MemoryCapabilities: Sendable {
    /// One thing asked and what came back.
    public struct Finding: Sendable {
        /// A stable name, e.g. `gmem.convert.2b`.
        public var id: String
        /// The call, with its telling arguments.
        public var asked: String
        /// What the kernel answered.
        public var answered: String
        /// Whether it does what a VMM would want; nil for what only informs.
        public var works: Bool?
    }

    /// What bit 1 of the creation flags means. The two series chose opposite meanings.
    public enum FlagBit1: Sendable, Equatable {
        /// Set: the file starts shared (mainline since Linux 6.18).
        case startsShared
        /// Set: the file starts private (dialect 1's series).
        case startsPrivate
        /// The kernel refuses it, or it makes no difference.
        case none
    }

    /// The VM's type.
    public internal(set) var vmType: VMType
    /// Whether an emulated kernel answered.
    public internal(set) var isEmulated: Bool
    /// Dialects that really converted a page and back, the preferred one first.
    public internal(set) var usableDialects: [ConversionDialect] = []
    /// Whether files can be mapped (GUEST_MEMFD_FLAG_MMAP, Linux 6.18).
    public internal(set) var canMap = false
    /// The state of a new mappable file without bit 1, nil where files cannot be mapped.
    public internal(set) var defaultState: Shareability?
    /// What bit 1 of the creation flags does here.
    public internal(set) var flagBit1 = FlagBit1.none
    /// Whether guard pages work on a file that is shared for life (Linux 6.15, and 6.18 for the file).
    public internal(set) var canGuard = false
    /// Everything asked, in order.
    public internal(set) var findings: [Finding] = []

    /// The strongest level that memory of this VM can have, nil where it cannot be had at all.
    public var level: PrivacyLevel? {
        if method == nil { return nil }
        if isEmulated { return .emulated }
        return inPlaceDialect == nil ? .process : .kernel
    }

    /// How memory of this VM would be converted.
    public var method: ConversionMethod? {
        if let inPlaceDialect { return .inPlace(inPlaceDialect) }
        // A guarded emulated file would be neither: not a real guest_memfd, not an emulated kernel's word.
        return canGuard && !isEmulated ? .guardPages : nil
    }

    /// The dialect for one backing in both states, which needs a file that can be mapped.
    var inPlaceDialect: ConversionDialect? { canMap ? usableDialects.first(where: { $0.isInPlace }) : nil }

    /// The `KVM_CREATE_GUEST_MEMFD` flags for a file that can be mapped, and the state it then starts in:
    /// the one wanted, where this kernel offers both.
    public func creationFlags(for wanted: Shareability) -> (flags: UInt64, state: Shareability) {
        let map = CGMEM_GUEST_MEMFD_FLAG_MMAP
        let bit1 = CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED
        let plain = defaultState ?? .private
        if plain == wanted || flagBit1 == .none { return (map, plain) }
        return (map | bit1, plain.opposite)
    }

    /// Asks the VM's kernel. Costs some fifty system calls and a page or two; leaves nothing behind.
    ///
    /// Throws where it could not be asked, for want of descriptors, memory or permission: that is no answer.
    public static func detect(_ vm: VirtualMachine) throws(GuestMemoryError) -> MemoryCapabilities {
        var probe = CapabilityProbe(vm)
        try probe.run()
        return probe.report
    }
}

extension MemoryCapabilities: CustomStringConvertible {
    /// A table of everything asked and answered.
    public var description: String {
        var text = "\(vmType) VM\(isEmulated ? ", emulated kernel" : "")\n"
        for finding in findings {
            let mark = finding.works.map { $0 ? "yes" : "no " } ?? "   "
            text += "  \(mark) \(finding.id): \(finding.asked) -> \(finding.answered)\n"
        }
        let dialects = usableDialects.map { "\($0.label)" }.joined(separator: ", ")
        text += "  usable dialects: \(dialects.isEmpty ? "none" : dialects)"
        text += "; level: \(level.map { "\($0)" } ?? "none")"
        return text
    }
}
