import CGmem

/// The type argument of `KVM_CREATE_VM`. Other than `default`, the numbers are x86's.
public struct VMType: RawRepresentable, Equatable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Type 0 of every architecture: no private memory.
    public static let `default` = VMType(rawValue: UInt32(CGMEM_KVM_X86_DEFAULT_VM))
    /// Private memory without hardware protection, for development (CONFIG_KVM_SW_PROTECTED_VM, Linux 6.8).
    public static let softwareProtected = VMType(rawValue: UInt32(CGMEM_KVM_X86_SW_PROTECTED_VM))
    public static let sev = VMType(rawValue: UInt32(CGMEM_KVM_X86_SEV_VM))
    public static let sevES = VMType(rawValue: UInt32(CGMEM_KVM_X86_SEV_ES_VM))
    /// AMD SEV-SNP, Linux 6.11.
    public static let snp = VMType(rawValue: UInt32(CGMEM_KVM_X86_SNP_VM))
    /// Intel TDX, Linux 6.16.
    public static let tdx = VMType(rawValue: UInt32(CGMEM_KVM_X86_TDX_VM))

    /// Whether a page's bytes are the same after a conversion. With SNP and TDX the hardware encrypts
    /// under another key, and what was there is gone.
    ///
    /// Of types this library does not know nothing is assumed.
    public var contentsSurviveConversion: Bool {
        switch self {
        case .default, .softwareProtected, .sev, .sevES: true
        default: false
        }
    }
}

extension VMType: CustomStringConvertible {
    public var description: String {
        switch self {
        case .default: "default"
        case .softwareProtected: "SW_PROTECTED"
        case .sev: "SEV"
        case .sevES: "SEV_ES"
        case .snp: "SNP"
        case .tdx: "TDX"
        default: "type \(rawValue)"
        }
    }
}
