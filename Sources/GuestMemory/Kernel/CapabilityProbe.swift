import CGmem

/// The conversation behind `MemoryCapabilities`.
struct CapabilityProbe {
    private let vm: VirtualMachine
    private var system: any SystemCalls { vm.system }
    private var page: UInt64 { UInt64(system.pageSize) }
    private(set) var report: MemoryCapabilities

    init(_ vm: VirtualMachine) {
        self.vm = vm
        self.report = MemoryCapabilities(vmType: vm.type, isEmulated: vm.system.isEmulated)
    }

    mutating func run() throws(GuestMemoryError) {
        askNumbers()
        try askFiles()
        // The preferred dialect first: where several work on one file, the newest is kept longest.
        for dialect in ConversionDialect.allCases where try tryDialect(dialect) {
            report.usableDialects.append(dialect)
        }
        if report.canMap { try tryGuards() }
    }

    /// An error that says nothing about the kernel's abilities: it is thrown on.
    private static func isNoAnswer(_ errno: LinuxErrno?) -> Bool {
        switch errno {
        case .noMemory?, .tooManyOpenFiles?, .fileTableFull?, .again?, .permissionDenied?, .notPermitted?,
            .interrupted?, .badFileDescriptor?:
            true
        default: false
        }
    }

    private mutating func note(_ id: String, _ asked: String, _ answered: String, _ works: Bool?) {
        report.findings.append(.init(id: id, asked: asked, answered: answered, works: works))
    }

    private static func words(_ result: Int) -> String {
        LinuxErrno(result: result).map { "\($0)" } ?? "\(result)"
    }

    // MARK: Capability numbers: hints, for the report

    private mutating func askNumbers() {
        for (number, name) in Self.numbers {
            let answer = system.ioctl(vm.descriptor, CGMEM_KVM_CHECK_EXTENSION, UInt(number))
            note("cap.\(number)", "KVM_CHECK_EXTENSION(\(name))", Self.words(answer), nil)
        }
    }

    private static let numbers: [(Int32, StaticString)] = [
        (CGMEM_KVM_CAP_USER_MEMORY2, "USER_MEMORY2"),
        (CGMEM_KVM_CAP_MEMORY_FAULT_INFO, "MEMORY_FAULT_INFO"),
        (CGMEM_KVM_CAP_MEMORY_ATTRIBUTES, "MEMORY_ATTRIBUTES"),
        (CGMEM_KVM_CAP_GUEST_MEMFD, "GUEST_MEMFD"),
        (CGMEM_KVM_CAP_VM_TYPES, "VM_TYPES"),
        (CGMEM_KVM_CAP_PRE_FAULT_MEMORY, "PRE_FAULT_MEMORY"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_FLAGS, "GUEST_MEMFD_FLAGS"),
        (CGMEM_KVM_CAP_EXIT_HYPERCALL, "EXIT_HYPERCALL"),
        (CGMEM_KVM_CAP_RFC_GMEM_CONVERSION, "GMEM_CONVERSION in dialect 1"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_RFC1, "GUEST_MEMFD_MEMORY_ATTRIBUTES in RFC v1"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_RFC2, "GUEST_MEMFD_MEMORY_ATTRIBUTES in RFC v2"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_V3, "GUEST_MEMFD_MEMORY_ATTRIBUTES in v3 to v7"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_V8, "GUEST_MEMFD_MEMORY_ATTRIBUTES in v8"),
        (CGMEM_KVM_CAP_GUEST_MEMFD_ATTRIBUTES_NEXT, "GUEST_MEMFD_MEMORY_ATTRIBUTES in linux-next"),
    ]

    // MARK: Files and the meaning of bit 1

    private mutating func askFiles() throws(GuestMemoryError) {
        let plain = try scratch(flags: 0)
        note("gmem.create", "KVM_CREATE_GUEST_MEMFD(flags 0)", plain.words, plain.file != nil)
        let mappable = try scratch(flags: CGMEM_GUEST_MEMFD_FLAG_MMAP)
        note("gmem.create.mmap", "KVM_CREATE_GUEST_MEMFD(flags 1)", mappable.words, mappable.file != nil)
        guard let file = mappable.file else { return }
        guard let state = try initialState(of: file) else {
            note("gmem.map", "mmap and MADV_POPULATE_READ", "neither mapped nor EFAULT", false)
            return
        }
        report.canMap = true
        report.defaultState = state
        note("gmem.map", "mmap and MADV_POPULATE_READ of a new file", "it starts \(state)", true)

        let flagged = try scratch(flags: CGMEM_GUEST_MEMFD_FLAG_MMAP | CGMEM_GUEST_MEMFD_FLAG_INIT_SHARED)
        var flaggedState: Shareability?
        if let file = flagged.file { flaggedState = try initialState(of: file) }
        if let flaggedState, flaggedState != state {
            report.flagBit1 = flaggedState == .shared ? .startsShared : .startsPrivate
        }
        note(
            "gmem.create.bit1", "KVM_CREATE_GUEST_MEMFD(flags 3) and MADV_POPULATE_READ",
            flaggedState.map { "it starts \($0)" } ?? flagged.words, report.flagBit1 != .none)
    }

    /// A file of one page, or what the kernel said instead.
    private func scratch(flags: UInt64) throws(GuestMemoryError) -> (file: GuestMemfd?, words: String) {
        do throws(GuestMemoryError) {
            return (try GuestMemfd.create(in: vm, size: page, flags: flags), "a descriptor")
        } catch {
            if Self.isNoAnswer(error.errno) { throw error }
            return (nil, error.errno.map { "\($0)" } ?? error.message)
        }
    }

    /// nil where the file cannot be mapped, or its page cannot be asked about.
    private func initialState(of file: GuestMemfd) throws(GuestMemoryError) -> Shareability? {
        do throws(GuestMemoryError) { return try file.map().probe() } catch {
            if Self.isNoAnswer(error.errno) { throw error }
            return nil
        }
    }

    // MARK: Dialects

    /// Whether the dialect really converts a page, and back, and the host's view follows.
    private mutating func tryDialect(_ dialect: ConversionDialect) throws(GuestMemoryError) -> Bool {
        let id = "gmem.convert.\(dialect.label)"
        let call = "\(dialect.call(to: .private))"
        var file: GuestMemfd?
        if dialect.isInPlace {
            // Without mappable files there is still a conversion to try, only no view to check it by.
            file = try scratch(flags: report.canMap ? CGMEM_GUEST_MEMFD_FLAG_MMAP : 0).file
            guard file != nil else {
                note(id, call, "not asked: no file to convert", false)
                return false
            }
        }
        let descriptor = file?.descriptor ?? vm.descriptor
        // Size 0 changes nothing in any dialect and tells which calls exist at all. It does not tell
        // which work: a plain VM answers EINVAL to it and to every real conversion too.
        let empty = dialect.convert(descriptor, offset: 0, size: 0, to: .private, on: system).result
        if empty != dialect.answerToSizeZero {
            note(id, "\(call)(size 0)", Self.words(empty), false)
            return false
        }
        let failure: String?
        if let file {
            failure = try roundTrip(dialect, file)
        } else {
            failure = attributeRoundTrip()
        }
        note(id, "\(call) of a page, and back", failure ?? "converted, and back", failure == nil)
        return failure == nil
    }

    /// Private, shared, private, shared: the first step may be none, where the file starts private.
    private func roundTrip(_ dialect: ConversionDialect, _ file: GuestMemfd) throws(GuestMemoryError) -> String? {
        let view: FileMapping? = report.canMap ? try file.map() : nil
        for state in [Shareability.private, .shared, .private, .shared] {
            let result = patiently(dialect) {
                dialect.convert(file.descriptor, offset: 0, size: page, to: state, on: system).result
            }
            if result == LinuxErrno.noMemory.result {
                throw GuestMemoryError(
                    .noMemory, "\(dialect.call(to: state))", .noMemory, "the kernel has no memory to be asked with")
            }
            if result != 0 { return "to \(state): \(Self.words(result))" }
            if report.canMap {
                let seen = view?.probe()
                if seen != state {
                    return "to \(state): answered 0, but the host's view is \(seen.map { "\($0)" } ?? "unclear")"
                }
            }
        }
        return nil
    }

    /// A page at a guest-physical address that no processor can have, so that it is nobody's, in a
    /// borrowed VM too: attributes need no slot.
    private func attributeRoundTrip() -> String? {
        let high: UInt64 = 1 << 52
        for state in [Shareability.private, .shared] {
            let result = ConversionDialect.vmAttributes.convert(
                vm.descriptor, offset: high, size: page, to: state, on: system
            ).result
            if result != 0 { return "to \(state): \(Self.words(result))" }
        }
        return nil
    }

    /// EAGAIN on a page that nobody else knows is a passing reference (an LRU batch, which dialects 1
    /// and 2a do not drain): some tries, 20 µs apart and doubling, about 20 ms in all.
    private func patiently(_ dialect: ConversionDialect, _ call: () -> Int) -> Int {
        var pause: UInt64 = 20_000
        for _ in 0..<10 {
            let result = call()
            if result != LinuxErrno.again.result { return result }
            _ = system.sleep(nanoseconds: pause)
            pause *= 2
        }
        return call()
    }

    // MARK: Guard pages, for level `process`

    private mutating func tryGuards() throws(GuestMemoryError) {
        let (flags, state) = report.creationFlags(for: .shared)
        let call = "MADV_GUARD_INSTALL, MADV_GUARD_REMOVE on a shared file"
        guard state == .shared, let file = try scratch(flags: flags).file else {
            note("process.guard", call, "not asked: no file starts shared", false)
            return
        }
        let view = try file.map()
        let installed = system.madvise(view.address, Int(page), CGMEM_MADV_GUARD_INSTALL)
        let guarded = view.probe()
        let removed = system.madvise(view.address, Int(page), CGMEM_MADV_GUARD_REMOVE)
        let bare = view.probe()
        if installed == LinuxErrno.noMemory.result {
            throw GuestMemoryError(
                .noMemory, "madvise(MADV_GUARD_INSTALL)", .noMemory, "the kernel has no memory to be asked with")
        }
        report.canGuard = installed == 0 && guarded == .private && removed == 0 && bare == .shared
        note(
            "process.guard", call,
            report.canGuard
                ? "kept out, let in"
                : "\(Self.words(installed)), \(Self.words(removed)): Linux 6.15 or newer is needed",
            report.canGuard)
    }
}
