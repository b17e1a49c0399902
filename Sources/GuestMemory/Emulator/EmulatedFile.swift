import CGmem

/// A guest_memfd: a memfd, who may touch which page of it, and where this process has it mapped.
///
/// It lives while a descriptor or a mapping refers to it, and keeps its VM.
final class EmulatedFile: @unchecked Sendable {
    let id: UInt64
    let vm: EmulatedVirtualMachine
    /// Bytes, a multiple of the page.
    let size: Int
    let pageSize: Int
    let isMappable: Bool
    let backing: Int32
    let guardian: PageGuardian
    private let references: Locked<PageReferences>

    /// The kernel's invalidate lock: held for the whole of a conversion, so that those of one file are
    /// serial, and over every change to its mappings.
    let lock = Lock()
    var map: ShareabilityMap
    var mappings: [HostMapping] = []
    var guarded: GuardedChunks

    var pageCount: Int { size / pageSize }
    var allPages: PageRange { PageRange(start: 0, count: pageCount) }

    /// nil when there is no descriptor or no memory for it.
    init?(
        id: UInt64, vm: EmulatedVirtualMachine, size: Int, pageSize: Int, isMappable: Bool,
        initially: Shareability, guardian: PageGuardian, references: Locked<PageReferences>
    ) {
        guard let map = ShareabilityMap(pageCount: size / pageSize, pageSize: pageSize, initially: initially)
        else { return nil }
        let backing = unsafe cgmem_memfd_create("kvm-gmem", CGMEM_MFD_CLOEXEC)
        if backing < 0 { return nil }
        if cgmem_ftruncate(Int32(backing), Int64(size)) != 0 {
            _ = cgmem_close(Int32(backing))
            return nil
        }
        self.id = id
        self.vm = vm
        self.size = size
        self.pageSize = pageSize
        self.isMappable = isMappable
        self.backing = Int32(backing)
        self.guardian = guardian
        self.references = references
        self.map = map
        guarded = GuardedChunks(pageCount: size / pageSize)
    }

    deinit {
        vm.orphan(file: id)
        references.withLock { $0.forget(file: id) }
        _ = cgmem_close(backing)
    }

    func withMap<Result>(_ body: (borrowing ShareabilityMap) -> Result) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return body(map)
    }

    /// The pages that some bytes touch; nil when there are none, or not all are in the file.
    func pages(touching offset: UInt64, _ length: UInt64) -> PageRange? {
        let (end, overflow) = offset.addingReportingOverflow(length)
        if length == 0 || overflow || end > UInt64(size) { return nil }
        let first = Int(offset) / pageSize
        return PageRange(start: first, count: (Int(end) - 1) / pageSize + 1 - first)
    }

    // MARK: Contents, as the guest sees them

    func read(_ offset: UInt64, _ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        transfer(offset, count) { done, position in
            unsafe cgmem_pread(backing, buffer + done, count - done, position)
        }
    }

    func write(_ offset: UInt64, _ buffer: UnsafeRawPointer, _ count: Int) -> Int {
        transfer(offset, count) { done, position in
            unsafe cgmem_pwrite(backing, buffer + done, count - done, position)
        }
    }

    private func transfer(_ offset: UInt64, _ count: Int, _ step: (Int, Int64) -> Int) -> Int {
        if count < 0 || offset > UInt64(size) || count > size - Int(offset) { return LinuxErrno.badAddress.result }
        var done = 0
        while done < count {
            let result = step(done, Int64(offset) + Int64(done))
            if result == LinuxErrno.interrupted.result { continue }
            if result <= 0 { return result == 0 ? LinuxErrno.io.result : LinuxErrno.noMemory.result }
            done += result
        }
        return count
    }

    // MARK: Allocation

    func allocate(_ pages: PageRange) -> Int {
        var result: Int
        repeat {
            result = cgmem_fallocate(
                backing, CGMEM_FALLOC_FL_KEEP_SIZE, Int64(pages.start * pageSize),
                Int64(pages.count * pageSize))
        } while result == LinuxErrno.interrupted.result
        // A memfd answers ENOSPC where guest_memfd, which has no quota, answers ENOMEM.
        return result == LinuxErrno.noSpace.result ? LinuxErrno.noMemory.result : result
    }

    /// Drops contents and, where nobody could notice the difference, the memory. States stay.
    func punch(_ pages: PageRange) -> Int {
        lock.lock()
        defer { lock.unlock() }
        let pages = pages.intersection(allPages)
        if pages.isEmpty { return 0 }
        if !guardian.isUserfault || mappings.isEmpty { return release(pages) }
        // Under guard a page that is shared must keep its page-table entry: it is cleared in place.
        return guarded.forEachPart(of: pages) { part, isGuarded in
            if !isGuarded { return release(part) }
            var rest = part
            while !rest.isEmpty {
                let shared =
                    map.nextRun(notIn: .private, within: rest) ?? PageRange(start: rest.end, count: 0)
                let before = PageRange(start: rest.start, count: shared.start - rest.start)
                if !before.isEmpty {
                    let result = release(before)
                    if result != 0 { return result }
                }
                if !shared.isEmpty {
                    let result = clear(shared)
                    if result != 0 { return result }
                }
                rest = PageRange(start: shared.end, count: rest.end - shared.end)
            }
            return 0
        }
    }

    private func release(_ pages: PageRange) -> Int {
        cgmem_fallocate(
            backing, CGMEM_FALLOC_FL_KEEP_SIZE | CGMEM_FALLOC_FL_PUNCH_HOLE,
            Int64(pages.start * pageSize), Int64(pages.count * pageSize))
    }

    private func clear(_ pages: PageRange) -> Int {
        let piece = 16 * pageSize
        guard let zeros = ZeroedMemory(count: piece) else { return LinuxErrno.noMemory.result }
        var offset = pages.start * pageSize
        let end = pages.end * pageSize
        while offset < end {
            let count = min(piece, end - offset)
            let result = unsafe write(UInt64(offset), zeros.base, count)
            if result != count { return result }
            offset += count
        }
        return 0
    }

    // MARK: Conversion

    enum Conversion {
        case unchanged, done
        /// The first page that somebody holds.
        case busy(page: Int)
        case noMemory(mapLimit: Bool)
    }

    /// Converts all pages or none. `skipsSettled`: pages that are in the wanted state already are not
    /// asked whether somebody holds them (dialect 1), rather than all of the range (2b).
    func convert(_ pages: PageRange, to state: Shareability, skipsSettled: Bool) -> Conversion {
        lock.lock()
        defer { lock.unlock() }
        if map.uniformState(of: pages) == state { return .unchanged }
        if state == .private, let page = busyPage(pages, skipsSettled: skipsSettled) {
            return .busy(page: page)
        }
        let result =
            mappings.isEmpty
            ? 0
            : guardian.isUserfault
                ? (state == .private ? withdraw(pages) : expose(pages))
                : (state == .private ? cover(pages) : uncover(pages))
        if result != 0 { return .noMemory(mapLimit: !guardian.isUserfault) }
        map.set(pages, to: state)
        return .done
    }

    private func busyPage(_ pages: PageRange, skipsSettled: Bool) -> Int? {
        references.withLock { references in
            if references.isIdle { return nil }
            var busy: Int?
            if skipsSettled {
                var rest = pages
                while busy == nil, let run = map.nextRun(notIn: .private, within: rest) {
                    busy = references.firstHeld(file: id, run)
                    rest = PageRange(start: run.end, count: rest.end - run.end)
                }
            } else {
                busy = references.firstHeld(file: id, pages)
            }
            // A passing reference can only be to a page that the host may still touch.
            if busy == nil, let run = map.nextRun(notIn: .private, within: pages) {
                busy = references.spontaneous(run)
            }
            if busy != nil { references.age(file: id, pages) }
            return busy
        }
    }
}
