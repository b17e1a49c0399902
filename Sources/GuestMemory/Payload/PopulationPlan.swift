import CGmem

/// What goes where in a guest's memory before it runs: the firmware, a kernel, an initrd, tables.
///
/// A plan only lists. `GuestMemory.preview` says what carrying it out means, `GuestMemory.populate` checks
/// all of it and then does it.
public struct PopulationPlan: Sendable {
    enum Source: Sendable {
        /// Memory at an address: the keeper's, or without one the caller's.
        case memory(UInt, keeper: PayloadBytes?)
        case file(descriptor: Int32, offset: UInt64, keeper: PayloadFile?)
        case zeros
    }

    struct Item: Sendable {
        var range: GuestRange
        var source: Source
        /// For messages.
        var name: String
    }

    private(set) var items: [Item] = []

    public init() {}

    /// A plan of one item.
    public init(_ bytes: [UInt8], at address: UInt64) { add(bytes, at: address) }

    /// Bytes to place: items in all, over all.
    public var byteCount: UInt64 { items.reduce(0) { $0 &+ $1.range.size } }

    /// Places a copy of the bytes at a guest-physical address, which need not be aligned.
    public mutating func add(_ bytes: [UInt8], at address: UInt64) {
        let copy = PayloadBytes(bytes)
        append(UInt64(bytes.count), at: address, .memory(copy.address, keeper: copy), "bytes")
    }

    /// Places memory of the caller's, which stays valid and unchanged until the plan has been carried out.
    @unsafe
    public mutating func add(_ memory: UnsafeRawBufferPointer, at address: UInt64) {
        append(UInt64(memory.count), at: address, .memory(UInt(bitPattern: memory.baseAddress), keeper: nil), "memory")
    }

    /// Places `count` bytes of an open regular file, from `offset` on, by reading them straight into the
    /// guest's memory. Holes in the file are not read. The descriptor stays the caller's, and open.
    public mutating func add(file descriptor: Int32, offset: UInt64 = 0, count: UInt64, at address: UInt64) {
        append(
            count, at: address, .file(descriptor: descriptor, offset: offset, keeper: nil),
            "descriptor \(descriptor)")
    }

    /// Opens a regular file and places all of it.
    ///
    /// Throws `notFound`, `noPermission`, or `badDescriptor` for what is no regular file.
    public mutating func add(
        path: String, at address: UInt64, on system: any SystemCalls = LinuxSystemCalls.shared
    ) throws(GuestMemoryError) {
        let file = try PayloadFile(path, on: system)
        append(
            file.size, at: address, .file(descriptor: file.descriptor.number, offset: 0, keeper: file), path)
    }

    /// Places zeros. Pages that nobody can have written to yet stay unallocated.
    public mutating func addZeros(_ count: UInt64, at address: UInt64) {
        append(count, at: address, .zeros, "zeros")
    }

    private mutating func append(_ count: UInt64, at address: UInt64, _ source: Source, _ name: String) {
        items.append(Item(range: GuestRange(address: address, size: count), source: source, name: name))
    }
}

/// Bytes at an address that stays: an array's is good inside a closure only.
final class PayloadBytes: Sendable {
    let address: UInt

    init(count: Int) {
        // Never empty, so that the address is never 0.
        address = UInt(bitPattern: UnsafeMutableRawPointer.allocate(byteCount: max(1, count), alignment: 16))
    }

    convenience init(_ bytes: [UInt8]) {
        self.init(count: bytes.count)
        // SAFETY: allocated with that size just now, and nobody else knows it yet.
        unsafe bytes.withUnsafeBytes { source in
            if let start = source.baseAddress { unsafe cgmem_copy(pointer, start, source.count) }
        }
    }

    deinit { unsafe pointer.deallocate() }

    private var pointer: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(bitPattern: address)! }
}

/// A file that a plan opened, closed with the last copy of the plan.
final class PayloadFile: Sendable {
    let descriptor: OwnedDescriptor
    let size: UInt64

    init(_ path: String, on system: any SystemCalls) throws(GuestMemoryError) {
        // SAFETY: the C string lives for the call.
        let result = unsafe path.withCString { unsafe system.open($0, CGMEM_O_RDONLY | CGMEM_O_CLOEXEC) }
        if let errno = LinuxErrno(result: result) {
            let code: GuestMemoryError.Code =
                switch errno {
                case .noSuchFile: .notFound
                case .permissionDenied, .notPermitted: .noPermission
                default: .systemCall
                }
            throw GuestMemoryError(
                code, "open(\(path))", errno,
                errno == .noSuchFile ? "the payload file does not exist" : "the payload file cannot be opened")
        }
        descriptor = OwnedDescriptor(taking: Int32(result), from: system)
        size = try Self.size(of: descriptor.number, named: path, on: system)
    }

    /// The size of a regular file. Throws `badDescriptor` for anything else.
    static func size(
        of descriptor: Int32, named name: String, on system: any SystemCalls
    ) throws(GuestMemoryError) -> UInt64 {
        var status = cgmem_stat()
        // SAFETY: the structure lives for the call.
        let result = unsafe system.fstat(descriptor, &status)
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(.badDescriptor, "fstat(\(name))", errno, "pass an open regular file")
        }
        if status.mode & CGMEM_S_IFMT != CGMEM_S_IFREG {
            throw GuestMemoryError(
                .badDescriptor, "fstat(\(name))", nil,
                "the payload is no regular file: copy a pipe, device or directory into one first")
        }
        return status.size
    }
}
