extension EmulatedKernel {
    /// Which kernel this is: what it offers, how it numbers it, and how it keeps the host out.
    ///
    /// Start from a preset and change what a test is about: every property is independent of the others,
    /// as in the out-of-tree kernels that mix them.
    public struct Configuration: Sendable {
        /// The conversion calls that a kernel answers, each by its own number.
        public struct Dialects: OptionSet, Sendable {
            public var rawValue: UInt8
            public init(rawValue: UInt8) { self.rawValue = rawValue }

            // Bits 0 and 2 are kept for the dialects L (VM-wide attributes) and 2a (RFC v1).
            /// Dialect 1: KVM_GMEM_CONVERT_SHARED and KVM_GMEM_CONVERT_PRIVATE on the guest_memfd.
            public static let convert = Dialects(rawValue: 1 << 1)
            /// Dialect 2b: KVM_SET_MEMORY_ATTRIBUTES2 (128 bytes) on the guest_memfd, as of v8.
            public static let attributes2 = Dialects(rawValue: 1 << 3)
        }

        /// What the flags of KVM_CREATE_GUEST_MEMFD mean.
        public enum CreationFlags: Sendable {
            /// No flag is valid: Linux 6.8 to 6.17. Every file is private for life.
            case none
            /// MMAP and INIT_SHARED, private by default: Linux 6.18 and later.
            case upstream
            /// SUPPORT_SHARED and INIT_PRIVATE, shared by default: the RFC v2 series of May 2025.
            case rfc
        }

        /// KVM_CREATE_VM types, by bit, as KVM_CAP_VM_TYPES answers them.
        public struct VMTypes: OptionSet, Sendable {
            public var rawValue: UInt32
            public init(rawValue: UInt32) { self.rawValue = rawValue }

            public static let `default` = VMTypes(rawValue: 1 << 0)
            public static let softwareProtected = VMTypes(rawValue: 1 << 1)
            public static let sev = VMTypes(rawValue: 1 << 2)
            public static let sevES = VMTypes(rawValue: 1 << 3)
            public static let snp = VMTypes(rawValue: 1 << 4)
            public static let tdx = VMTypes(rawValue: 1 << 5)
            /// The types whose guests have private memory.
            public static let withPrivateMemory: VMTypes = [.softwareProtected, .snp, .tdx]
        }

        /// One capability's answer, on the device and on VMs alike.
        public struct CapabilityAnswer: Sendable {
            public var number: UInt
            public var answer: Int
            public init(number: UInt, answer: Int) {
                self.number = number
                self.answer = answer
            }
        }

        public var dialects: Dialects
        public var creationFlags: CreationFlags
        /// Module parameter kvm.gmem_in_place_conversion. Off, dialect 2b's call is ENOTTY and
        /// INIT_SHARED is refused for VM types with private memory.
        public var inPlaceConversion = true
        /// Always contains type 0 on a real kernel.
        public var vmTypes: VMTypes
        /// The number of KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES, which moved with every version of the
        /// series (250 in v8, 252 in linux-next); nil when the kernel has none.
        public var attributesCapability: UInt?
        /// Whether VMs without private memory may have guest_memfd slots (and KVM_CAP_GUEST_MEMFD);
        /// in Linux 6.12 they may not.
        public var guestMemfdForEveryVM = true
        /// What binding a file range that is bound already answers: EEXIST from Linux 7.2, EINVAL before.
        public var overlappingBindError: LinuxErrno
        /// Answers that go before this kernel's own.
        public var capabilityAnswers: [CapabilityAnswer] = []
        /// Guest-physical addresses from 2 to this power on are refused, 12...62.
        public var physicalAddressBits = 52
        public var mechanism: Mechanism = .automatic
        /// Seeds `random` and spontaneous references.
        public var seed: UInt64 = 1
        /// How many threads must be blocked before the clock moves.
        public var registeredThreads = 1

        public init(
            dialects: Dialects, creationFlags: CreationFlags, vmTypes: VMTypes,
            attributesCapability: UInt? = nil, overlappingBindError: LinuxErrno
        ) {
            self.dialects = dialects
            self.creationFlags = creationFlags
            self.vmTypes = vmTypes
            self.attributesCapability = attributesCapability
            self.overlappingBindError = overlappingBindError
        }

        /// The RFC v2 "1G page support" series of May 2025: KVM_GMEM_CONVERT_* and its own flags.
        public static var dialect1: Configuration {
            Configuration(
                dialects: .convert, creationFlags: .rfc, vmTypes: [.default, .softwareProtected],
                overlappingBindError: .invalid)
        }

        /// In-place conversion v8 of June 2026: KVM_SET_MEMORY_ATTRIBUTES2, capability 250.
        public static var dialect2b: Configuration {
            Configuration(
                dialects: .attributes2, creationFlags: .upstream, vmTypes: [.default, .softwareProtected],
                attributesCapability: 250, overlappingBindError: .exists)
        }

        /// linux-next of September 2026: as v8, capability 252.
        public static var linuxNext: Configuration {
            var configuration = dialect2b
            configuration.attributesCapability = 252
            return configuration
        }

        /// Linux 6.18 as distributions build it: mappable files, shared or private for life, plain VMs.
        public static var linux6_18: Configuration {
            Configuration(
                dialects: [], creationFlags: .upstream, vmTypes: .default, overlappingBindError: .invalid)
        }

        /// Linux 6.12 with CONFIG_KVM_SW_PROTECTED_VM: nothing can be mapped.
        public static var linux6_12: Configuration {
            var configuration = Configuration(
                dialects: [], creationFlags: .none, vmTypes: [.default, .softwareProtected],
                overlappingBindError: .invalid)
            configuration.guestMemfdForEveryVM = false
            return configuration
        }
    }

    /// How the host is kept out of private pages.
    public enum Mechanism: Sendable {
        /// userfaultfd where it is to be had, else holes.
        case automatic
        /// userfaultfd with SIGBUS: at most some 1,000 kernel mappings a host mapping, however fragmented
        /// the file.
        case userfaultfd
        /// An empty file mapped over private pages: works anywhere, but each change of state in a host
        /// mapping costs one of the process's 65,530 kernel mappings; past that, conversions and `mmap`
        /// answer ENOMEM and `Counters.mapLimitHits` says why.
        case holes
    }
}
