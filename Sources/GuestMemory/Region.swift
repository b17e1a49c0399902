import CGmem

/// What a VMM asks for: guest-physical bytes, the memslot they belong to, and the file behind them.
public struct RegionRequest: Sendable {
    /// The file behind a region.
    public enum Backing: Sendable {
        /// A new guest_memfd of the region's size.
        case new
        /// A guest_memfd of the VMM's, from `offset` bytes on. All of the region's pages are set to
        /// `state` when it is adopted: no kernel call tells in which state they are. Regions that name the
        /// same file share one ledger.
        case existing(descriptor: Int32, offset: UInt64, state: Shareability)
    }

    /// Page-aligned, not empty, and overlapping no other region.
    public var range: GuestRange
    /// The KVM slot to bind the region to; nil when the VMM makes the memslot itself.
    public var slot: UInt32?
    /// The file behind it.
    public var backing: Backing

    /// `address` and `size` in bytes, multiples of the page.
    public init(address: UInt64, size: UInt64, slot: UInt32? = nil, backing: Backing = .new) {
        self.range = GuestRange(address: address, size: size)
        self.slot = slot
        self.backing = backing
    }
}

/// A region as it is, for the VMM's own calls. The descriptor and the mappings stay ours.
public struct RegionInfo: Sendable {
    /// Guest-physical bytes.
    public let range: GuestRange
    /// The slot we bound, nil when the VMM did.
    public let slot: UInt32?
    /// The guest_memfd.
    public let descriptor: Int32
    /// Where the region starts in it, in bytes.
    public let fileOffset: UInt64
    /// The host's view of the region's first byte. A touch of a private page raises the level's signal.
    public let hostAddress: UInt
    /// What to pass KVM as `userspace_addr`, and to nobody else: on level `process` it is unguarded.
    public let guestViewAddress: UInt
    /// Guest-physical address and file offset agree modulo this many bytes: the largest mapping that the
    /// region can have anywhere (with 4 KiB pages: a page, 2 MiB or 1 GiB).
    public let congruence: UInt64
}

/// A region as the library keeps it: plain numbers, so that looking one up costs no reference counting.
///
/// `@safe`: the address leads into the `MemoryFile` at `fileIndex`, which `GuestMemory` owns as long as itself.
@safe
struct Region: BitwiseCopyable {
    let range: GuestRange
    /// `range.end`, known not to wrap.
    let end: UInt64
    let slot: UInt32?
    let fileOffset: UInt64
    let fileIndex: Int
    let converter: FileConverter
    private let ledgerAddress: UnsafeMutablePointer<ShareabilityMap>

    init(_ range: GuestRange, slot: UInt32?, file: MemoryFile, at fileIndex: Int, fileOffset: UInt64) {
        self.range = range
        self.end = range.address + range.size
        self.slot = slot
        self.fileOffset = fileOffset
        self.fileIndex = fileIndex
        self.converter = file.converter
        unsafe self.ledgerAddress = unsafe file.ledger.address
    }

    /// The ledger of the region's file. Under the lock of the memory's claims.
    @inline(__always)
    var ledger: ShareabilityMap {
        // SAFETY: see the type.
        unsafeAddress { unsafe UnsafePointer(ledgerAddress) }
        nonmutating unsafeMutableAddress { unsafe ledgerAddress }
    }

    /// The pages of the file behind a part of the region.
    @inline(__always)
    func pages(_ start: UInt64, _ end: UInt64) -> PageRange {
        let shift = UInt64(converter.pageShift)
        return PageRange(
            start: Int(truncatingIfNeeded: (start &- range.address &+ fileOffset) &>> shift),
            count: Int(truncatingIfNeeded: (end &- start) &>> shift))
    }

    /// Bytes of so many pages.
    func bytes(_ pages: Int) -> UInt64 { UInt64(pages) << UInt64(converter.pageShift) }

    /// All of its pages.
    var pages: PageRange { pages(range.address, end) }

    /// The guest-physical bytes of a run of the file's pages.
    func guestRange(_ run: PageRange) -> GuestRange {
        let shift = UInt64(converter.pageShift)
        return GuestRange(
            address: range.address + (UInt64(run.start) << shift) - fileOffset, size: UInt64(run.count) << shift)
    }

    /// The host view of a guest-physical address of the region.
    func hostAddress(_ address: UInt64) -> UInt {
        converter.hostView + UInt(address - range.address + fileOffset)
    }

    var congruence: UInt64 {
        let distance = range.address ^ fileOffset
        for frame in mappingSizes where distance & (frame - 1) == 0 { return frame }
        return UInt64(1) << UInt64(converter.pageShift)
    }

    /// The bytes that one entry of the upper levels of a page table maps, the larger first: a table is a
    /// page of 8-byte entries. 1 GiB and 2 MiB with 4 KiB pages.
    var mappingSizes: [UInt64] {
        let page = UInt64(1) << UInt64(converter.pageShift)
        return [page * (page / 8) * (page / 8), page * (page / 8)]
    }
}

/// One guest_memfd of a guest's memory: the file, its mappings and its ledger.
final class MemoryFile {
    let converter: FileConverter
    /// Made by us, all of it one region's; else the VMM's, who may use more of it than we know.
    let isOurs: Bool
    /// What KVM gets as `userspace_addr` for the file's first byte.
    let guestViewAddress: UInt
    /// The truth about every page. Under the lock of the memory's claims.
    let ledger: Cell<ShareabilityMap>

    // What `end` takes away. Before that never nil, after it never asked for.
    private(set) var file: GuestMemfd?
    private var hostView: FileMapping?
    /// The mapping that KVM may fetch guest pages through, where the host's is guarded.
    private var guestView: FileMapping?

    init(
        _ file: GuestMemfd, converter: FileConverter, hostView: consuming FileMapping,
        guestView: consuming FileMapping?, ledger: consuming ShareabilityMap, isOurs: Bool
    ) {
        self.guestViewAddress = guestView?.address ?? hostView.address
        self.file = file
        self.converter = converter
        self.hostView = consume hostView
        self.guestView = consume guestView
        self.ledger = Cell(ledger)
        self.isOurs = isOurs
    }

    /// In a forked child: the mappings were not inherited, and what is at their addresses now is none of
    /// ours to unmap. The child keeps the descriptor until it execs or ends.
    func abandon() { _ = unsafe Unmanaged.passRetained(self) }

    /// Unmaps and closes. Nobody may hold a claim on the file's pages any more.
    func end() {
        hostView = nil
        guestView = nil
        file = nil
    }

    /// Takes pages out of the guest view's page table; they come back when KVM asks for them.
    func dropGuestView(of pages: PageRange, on system: any SystemCalls) {
        _ = system.madvise(
            guestViewAddress + UInt(pages.start) << UInt(converter.pageShift), pages.count << converter.pageShift,
            CGMEM_MADV_DONTNEED)
    }

    /// The kernel's word on one page, by way of the host's view.
    func probe(page: Int) -> Shareability? { hostView?.probe(offset: page << converter.pageShift) ?? nil }
}
