import CGmem

/// Makes files, mappings and ledgers, one region after the other, and gives them their first states.
struct MemoryBuilder {
    private let vm: VirtualMachine
    private let capabilities: MemoryCapabilities
    private let method: ConversionMethod
    private var system: any SystemCalls { vm.system }
    private(set) var regions: [Region] = []
    private(set) var files: [MemoryFile] = []
    private var firstStates: [(MemoryFile, PageRange, Shareability, GuestRange)] = []

    init(_ vm: VirtualMachine, _ capabilities: MemoryCapabilities, _ method: ConversionMethod) {
        self.vm = vm
        self.capabilities = capabilities
        self.method = method
    }

    mutating func add(_ request: RegionRequest, _ initially: Shareability) throws(GuestMemoryError) {
        let file: MemoryFile
        var fileOffset: UInt64 = 0
        switch request.backing {
        case .new:
            // What guards protect must be shared for life; the state asked for is then made by guards.
            let start = method == .guardPages ? Shareability.shared : initially
            let (flags, state) = capabilities.creationFlags(for: start)
            let gmem = try GuestMemfd.create(in: vm, size: request.range.size, flags: flags)
            file = try open(gmem, state, isOurs: true)
            files.append(file)
            firstStates.append(
                (file, PageRange(start: 0, count: file.ledger.value.pageCount), initially, request.range))
        case .existing(let descriptor, let offset, let state):
            fileOffset = offset
            let gmem = try GuestMemfd.adopt(descriptor, atLeast: offset + request.range.size, on: system)
            if let known = known(gmem) { file = known } else { file = try adopt(gmem, offset) }
            let pages = region(request, file, fileOffset).pages
            for other in regions where files[other.fileIndex] === file {
                if other.pages.overlaps(pages) {
                    throw GuestMemoryError(
                        .overlap, "GuestMemory.create", .exists, range: request.range,
                        "it names the same pages of descriptor \(descriptor) as the region at \(other.range)")
                }
            }
            firstStates.append((file, pages, state, request.range))
        }
        regions.append(region(request, file, fileOffset))
    }

    /// Gives every region its first state. Last, because a VMM's own file is changed by it for good.
    func setFirstStates() throws(GuestMemoryError) {
        for (file, pages, state, range) in firstStates { try set(file, pages, to: state, range) }
    }

    private func region(_ request: RegionRequest, _ file: MemoryFile, _ fileOffset: UInt64) -> Region {
        Region(
            request.range, slot: request.slot, file: file, at: files.firstIndex { $0 === file }!,
            fileOffset: fileOffset)
    }

    private func known(_ gmem: GuestMemfd) -> MemoryFile? {
        let identity = gmem.identity
        return files.first { $0.file.map { $0.identity == identity } ?? false }
    }

    /// Takes part in a file of the VMM's. What its ledger says of a region is made true by `set`.
    private mutating func adopt(_ gmem: GuestMemfd, _ offset: UInt64) throws(GuestMemoryError) -> MemoryFile {
        let file = try open(gmem, .shared, isOurs: false)
        if method == .guardPages, file.probe(page: Int(offset) / system.pageSize) != .shared {
            throw GuestMemoryError(
                .badDescriptor, "madvise(MADV_POPULATE_READ)", .badAddress,
                "level process needs a file that is shared for life: create it with "
                    + "GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED (Linux 6.18)")
        }
        files.append(file)
        return file
    }

    private func open(
        _ gmem: GuestMemfd, _ state: Shareability, isOurs: Bool
    ) throws(GuestMemoryError) -> MemoryFile {
        let hostView = try gmem.map()
        hostView.keepFromChildrenAndDumps()
        var guestView: FileMapping?
        if method == .guardPages {
            let view = try gmem.map()
            view.keepFromChildrenAndDumps()
            guestView = consume view
        }
        let pageSize = system.pageSize
        guard
            let ledger = ShareabilityMap(
                pageCount: Int(gmem.size) / pageSize, pageSize: pageSize, initially: state)
        else {
            throw GuestMemoryError(
                .noMemory, "mmap", .noMemory, "no address space is left for the ledger: raise RLIMIT_AS")
        }
        let converter = FileConverter(
            method: method, descriptor: gmem.descriptor, hostView: hostView.address,
            pageShift: pageSize.trailingZeroBitCount)
        return MemoryFile(
            gmem, converter: converter, hostView: hostView, guestView: guestView, ledger: ledger,
            isOurs: isOurs)
    }

    /// "Set all to X": where the ledger's word is not yet the kernel's, or not the one asked for.
    private func set(
        _ file: MemoryFile, _ pages: PageRange, to state: Shareability, _ range: GuestRange
    ) throws(GuestMemoryError) {
        if file.isOurs, file.ledger.value.uniformState(of: pages) == state { return }
        var loop = RetryLoop(.vmm, on: system)
        do throws(RetryLoop.Failure) {
            try loop.convert(pages, to: state, by: file.converter) { page in
                ConversionPolicy.Busy(address: 0, fileOffset: UInt64(page * system.pageSize), leases: [])
            }
        } catch {
            var failure = error.described(
                "\(method.call(to: state))", range, elapsed: loop.elapsed)
            failure.message += ". Setting the region to its first state is what failed"
            throw failure
        }
        file.ledger.value.set(pages, to: state)
    }
}
