import CGmem

/// A guest's memory, as its VMM holds it: guest-physical regions backed by guest_memfd files, a ledger of
/// what is private and what is shared, and the operations that change it.
///
/// Create it (`create`), fill it (`populate`), convert ranges as the guest asks (`convert`), touch what is
/// shared (`read`, `write`, `lease`, `withSharedBytes`), close it. All of it may be called from any thread.
/// In a forked child every call throws `closed`: mappings and ledger are the parent's.
public final class GuestMemory: @unchecked Sendable {
    /// Who keeps the host out of private pages.
    public let level: PrivacyLevel
    /// How pages change their state.
    public let method: ConversionMethod
    /// The VM whose memory this is; it stays when the memory is closed.
    public let virtualMachine: VirtualMachine
    /// What the kernel was asked and answered before this memory was made.
    public let capabilities: MemoryCapabilities

    /// Sorted by address.
    let regions: [Region]
    let files: [MemoryFile]
    let claims: Claims
    let system: any SystemCalls
    let pageMask: UInt64
    /// Zeroed by the kernel in a forked child (MADV_WIPEONFORK).
    private let parentMark: ZeroedMemory

    /// Under the lock of `claims`.
    let shared = Cell(Shared())

    struct Shared {
        var state = State.open
        var counters = MemoryStatistics.Counters()
    }

    enum State { case open, poisoned, closed }

    init(
        virtualMachine: VirtualMachine, capabilities: MemoryCapabilities, level: PrivacyLevel, method: ConversionMethod,
        regions: [Region], files: [MemoryFile]
    ) throws(GuestMemoryError) {
        self.virtualMachine = virtualMachine
        self.capabilities = capabilities
        self.level = level
        self.method = method
        self.regions = regions
        self.files = files
        self.system = virtualMachine.system
        self.claims = Claims(on: virtualMachine.system)
        self.pageMask = UInt64(virtualMachine.system.pageSize - 1)
        guard let mark = ZeroedMemory(count: virtualMachine.system.pageSize) else {
            throw GuestMemoryError(.noMemory, "mmap", .noMemory, "no address space is left")
        }
        // SAFETY: the page is ours and stays until we go.
        unsafe mark.base.storeBytes(of: 1, as: UInt8.self)
        _ = unsafe cgmem_madvise(UInt(bitPattern: mark.base), mark.count, CGMEM_MADV_WIPEONFORK)
        self.parentMark = mark
    }

    /// A memory that nobody closed goes in the same order. Nobody can be using it: leases keep it alive.
    deinit {
        if isForked {
            for file in files { file.abandon() }
        } else if shared.value.state != .closed {
            dismantle()
        }
    }

    @inline(__always)
    var isForked: Bool {
        // SAFETY: the page is ours; the kernel alone ever changes it.
        unsafe parentMark.base.load(as: UInt8.self) == 0
    }

    /// Bytes in a page of the host.
    public var pageSize: Int { system.pageSize }

    /// The regions, sorted by address; none once the memory is closed, or in a forked child.
    public var regionInfos: [RegionInfo] {
        // A child's copy of the lock may be one that nobody will release.
        if isForked || claims.lock.withLock({ shared.value.state == .closed }) { return [] }
        return regions.map(info)
    }

    func info(of region: Region) -> RegionInfo {
        RegionInfo(
            range: region.range, slot: region.slot, descriptor: region.converter.descriptor,
            fileOffset: region.fileOffset, hostAddress: region.hostAddress(region.range.address),
            guestViewAddress: files[region.fileIndex].guestViewAddress + UInt(region.fileOffset),
            congruence: region.congruence)
    }

    // MARK: Finding the way from guest-physical addresses

    /// The index of the region that holds the address.
    @inline(__always)
    func region(containing address: UInt64) -> Int? {
        // A VMM has a handful of regions, and most addresses are in the first.
        var low = 0
        var high = regions.count
        while low < high {
            let middle = (low + high) / 2
            if address < regions[middle].range.address {
                high = middle
            } else if address >= regions[middle].end {
                low = middle + 1
            } else {
                return middle
            }
        }
        return nil
    }

    /// Throws unless the range is aligned, not empty, does not wrap, and every page of it is guest memory
    /// (with `holes: .skip`: at least one). Returns its end.
    @inline(__always)
    func validate(
        _ range: GuestRange, _ operation: StaticString, holes: ConversionPolicy.Holes = .refuse
    ) throws(GuestMemoryError) -> UInt64 {
        // Before any lock: a child's copy of it may be one that nobody will release.
        guard !isForked, (range.address | range.size) & pageMask == 0, range.size != 0, let end = range.end,
            covers(range.address, end, holes)
        else { throw invalid(range, operation, holes) }
        return end
    }

    @inline(__always)
    private func covers(_ start: UInt64, _ end: UInt64, _ holes: ConversionPolicy.Holes) -> Bool {
        if let index = region(containing: start), end <= regions[index].end { return true }
        return coversSlowly(start, end, holes)
    }

    @inline(never)
    private func coversSlowly(_ start: UInt64, _ end: UInt64, _ holes: ConversionPolicy.Holes) -> Bool {
        if holes == .skip { return regions.contains { $0.range.address < end && start < $0.end } }
        var at = start
        while at < end {
            guard let index = region(containing: at) else { return false }
            at = regions[index].end
        }
        return true
    }

    /// Says what is wrong with a range that `validate` refused.
    @inline(never)
    private func invalid(
        _ range: GuestRange, _ operation: StaticString, _ holes: ConversionPolicy.Holes
    ) -> GuestMemoryError {
        if isForked || claims.lock.withLock({ shared.value.state }) == .closed { return unusable(operation) }
        let fault: (GuestMemoryError.Code, String)
        if range.size == 0 {
            fault = (.badRange, "the range is empty")
        } else if (range.address | range.size) & pageMask != 0 {
            fault = (.badRange, "address and size must be multiples of the page, \(pageSize) bytes")
        } else if range.end == nil {
            fault = (.badRange, "the range wraps around the end of the address space")
        } else if holes == .skip {
            fault = (.notGuestMemory, "no page of it belongs to a region: \(regionList)")
        } else {
            fault = (.notGuestMemory, "part of it belongs to no region: \(regionList)")
        }
        return GuestMemoryError(fault.0, "\(operation)", .invalid, range: range, fault.1)
    }

    private var regionList: String { regions.map { "\($0.range)" }.joined(separator: ", ") }

    /// The pieces of a valid range, region by region, skipping what is no memory.
    @inline(__always)
    func nextPiece(_ at: UInt64, _ end: UInt64) -> (region: Int, start: UInt64, end: UInt64)? {
        if at >= end { return nil }
        if let index = region(containing: at) { return (index, at, min(end, regions[index].end)) }
        for index in regions.indices where regions[index].range.address > at && regions[index].range.address < end {
            return (index, regions[index].range.address, min(end, regions[index].end))
        }
        return nil
    }

    // MARK: State

    /// Whether the memory may still be used. Under the lock of `claims`.
    @inline(__always)
    var isOpen: Bool { shared.value.state == .open }

    /// Throws when it may not. Under the lock of `claims`.
    func checkOpen(_ operation: StaticString) throws(GuestMemoryError) {
        if !isOpen { throw unusable(operation) }
    }

    @inline(never)
    func unusable(_ operation: StaticString) -> GuestMemoryError {
        if isForked {
            return GuestMemoryError(
                .closed, "\(operation)", nil,
                "this is a forked child: the memory belongs to its parent, exec or create your own")
        }
        if shared.value.state == .poisoned {
            return GuestMemoryError(
                .poisoned, "\(operation)", nil,
                "undoing a failed conversion failed earlier: shut the guest down and close the memory")
        }
        return GuestMemoryError(.closed, "\(operation)", nil, "the memory was closed")
    }

    /// The state of the page that holds the guest-physical address, nil where no region is.
    public func shareability(at address: UInt64) -> Shareability? {
        guard !isForked, let index = region(containing: address) else { return nil }
        let page = regions[index].pages(address & ~pageMask, (address & ~pageMask) + pageMask + 1).start
        return claims.lock.withLock { regions[index].ledger.state(ofPage: page) }
    }

    /// The runs of a range that are in a state now, in order, merged within each region: what to map into a
    /// device, or to dump. Pages that belong to no region are in no state.
    public func runs(in range: GuestRange, _ state: Shareability) -> [GuestRange] {
        // Whatever lies beyond the last region is in no state, so the range may be as large as it likes.
        let last = regions.last?.end ?? 0
        if isForked || range.size == 0 || range.address >= last { return [] }
        let end = min(last, (min(last, range.end ?? .max) + pageMask) & ~pageMask)
        var result: [GuestRange] = []
        claims.lock.withLock {
            var at = range.address & ~pageMask
            while let piece = nextPiece(at, end) {
                let region = regions[piece.region]
                let pages = region.pages(piece.start, piece.end)
                var rest = pages
                while let run = region.ledger.nextRun(notIn: state.opposite, within: rest) {
                    result.append(region.guestRange(run))
                    rest = PageRange(start: run.end, count: pages.end - run.end)
                }
                at = piece.end
            }
        }
        return result
    }

    /// The largest mapping, in bytes, that guest-physical address `address` can be part of now: 1 GiB or
    /// 2 MiB (with 4 KiB pages) where address and file offset agree modulo that size, the frame lies in the
    /// region whole, and all of its pages are in one state; else a page. nil where no region is.
    public func mappingSize(at address: UInt64) -> UInt64? {
        guard !isForked, let index = region(containing: address) else { return nil }
        let region = regions[index]
        for frame in region.mappingSizes where region.congruence >= frame {
            let start = address & ~(frame - 1)
            guard start >= region.range.address, region.end - start >= frame else { continue }
            let pages = region.pages(start, start + frame)
            if claims.lock.withLock({ region.ledger.uniformState(of: pages) }) != nil { return frame }
        }
        return pageMask + 1
    }
}
