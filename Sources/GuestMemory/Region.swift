/// What a VMM asks for: guest-physical bytes, the memslot they belong to, and the file behind them.
public struct RegionRequest: Sendable {
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
    public var backing: Backing

    public init(address: UInt64, size: UInt64, slot: UInt32? = nil, backing: Backing = .new) {
        self.range = GuestRange(address: address, size: size)
        self.slot = slot
        self.backing = backing
    }
}

/// A region as it is, for the VMM's own calls. The descriptor and the mappings stay ours.
public struct RegionInfo: Sendable {
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
    /// region can have anywhere (a page, 2 MiB or 1 GiB).
    public let congruence: UInt64
}

/// A region as the library keeps it.
struct Region {
    let range: GuestRange
    /// `range.end`, known not to wrap.
    let end: UInt64
    let slot: UInt32?
    let file: MemoryFile
    let fileOffset: UInt64

    /// The pages of the file behind a part of the region.
    @inline(__always)
    func pages(_ start: UInt64, _ end: UInt64) -> PageRange {
        let shift = UInt64(file.converter.pageShift)
        return PageRange(
            start: Int(truncatingIfNeeded: (start - range.address + fileOffset) >> shift),
            count: Int(truncatingIfNeeded: (end - start) >> shift))
    }

    /// The guest-physical bytes of a run of the file's pages.
    func guestRange(_ run: PageRange) -> GuestRange {
        let shift = UInt64(file.converter.pageShift)
        return GuestRange(
            address: range.address + (UInt64(run.start) << shift) - fileOffset, size: UInt64(run.count) << shift)
    }

    /// The host view of a guest-physical address of the region.
    func hostAddress(_ address: UInt64) -> UInt {
        file.converter.hostView + UInt(address - range.address + fileOffset)
    }

    var congruence: UInt64 {
        let distance = range.address ^ fileOffset
        for frame: UInt64 in [1 << 30, 1 << 21] where distance & (frame - 1) == 0 { return frame }
        return UInt64(1) << UInt64(file.converter.pageShift)
    }

    var info: RegionInfo {
        RegionInfo(
            range: range, slot: slot, descriptor: file.converter.descriptor, fileOffset: fileOffset,
            hostAddress: hostAddress(range.address), guestViewAddress: file.guestViewAddress + UInt(fileOffset),
            congruence: congruence)
    }
}

/// One guest_memfd of a guest's memory: the file, its mappings and its ledger.
final class MemoryFile {
    let converter: FileConverter
    /// What KVM gets as `userspace_addr` for the file's first byte.
    let guestViewAddress: UInt
    /// The truth about every page. Under the lock of the memory's claims.
    var ledger: ShareabilityMap
    /// Whether nothing but zeros can be in the pages: no host could write to them yet. Under the same lock.
    var isPristine: Bool

    // What `end` takes away. Before that never nil, after it never asked for.
    private(set) var file: GuestMemfd?
    private var hostView: FileMapping?
    /// The mapping that KVM may fetch guest pages through, where the host's is guarded.
    private var guestView: FileMapping?

    init(
        _ file: GuestMemfd, converter: FileConverter, hostView: consuming FileMapping,
        guestView: consuming FileMapping?, ledger: consuming ShareabilityMap, isPristine: Bool
    ) {
        self.guestViewAddress = guestView?.address ?? hostView.address
        self.file = file
        self.converter = converter
        self.hostView = consume hostView
        self.guestView = consume guestView
        self.ledger = ledger
        self.isPristine = isPristine
    }

    /// Unmaps and closes. Nobody may hold a claim on the file's pages any more.
    func end() {
        hostView = nil
        guestView = nil
        file = nil
    }

    /// The kernel's word on one page, by way of the host's view.
    func probe(page: Int) -> Shareability? { hostView?.probe(offset: page << converter.pageShift) ?? nil }
}
