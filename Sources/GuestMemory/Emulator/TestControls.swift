/// What a test does to the kernel that no VMM could: hold pages, break calls, look behind the curtain.
extension EmulatedKernel {
    /// Somebody holds pages of a guest_memfd; conversion to private answers EAGAIN until it is released.
    public struct Pin: Equatable, Sendable {
        let id: UInt64
    }

    /// Holds every page that the bytes `offset ..< offset + length` of the file touch, like a GUP pin.
    /// nil when the descriptor is no guest_memfd of this kernel or the range is empty or outside the file.
    /// A pin keeps no descriptor open.
    public func pin(_ descriptor: Int32, offset: UInt64, length: UInt64) -> Pin? {
        guard let file = guestMemory(descriptor), let pages = file.pages(touching: offset, length) else {
            return nil
        }
        return Pin(id: references.withLock { $0.add(file: file.id, pages, refusals: nil) })
    }

    /// Releases a pin. Nothing happens the second time.
    public func unpin(_ pin: Pin) {
        references.withLock { $0.remove(pin.id) }
    }

    /// A reference that goes away after it has made `refusals` conversions to private answer EAGAIN:
    /// a racing fault, an LRU batch. false as for `pin`, or when `refusals` is not positive.
    @discardableResult
    public func holdTransiently(_ descriptor: Int32, offset: UInt64, length: UInt64, refusals: Int) -> Bool {
        guard refusals > 0, let file = guestMemory(descriptor),
            let pages = file.pages(touching: offset, length)
        else { return false }
        references.withLock { _ = $0.add(file: file.id, pages, refusals: refusals) }
        return true
    }

    /// From now on every conversion to private meets a reference to one of its pages with a probability
    /// of 1 in `attempts`, which is gone at the next attempt. 0: never. Repeatable by the seed.
    public func setSpontaneousReferences(oneIn attempts: UInt32) {
        references.withLock { $0.spontaneousOneIn = attempts }
    }

    /// Adds a fault. Several on one call take turns in the order they were added.
    public func script(_ fault: ScriptedFault) { faults.withLock { $0.add(fault) } }
    public func removeScriptedFaults() { faults.withLock { $0.removeAll() } }

    /// Reads the file as the guest would, whatever the host may touch. Returns `count`, or -EBADF when
    /// the descriptor is no guest_memfd of this kernel, -EFAULT when the bytes are not all in the file.
    public func guestRead(
        _ descriptor: Int32, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer, _ count: Int
    ) -> Int {
        guard let file = guestMemory(descriptor) else { return LinuxErrno.badFileDescriptor.result }
        return unsafe file.read(offset, buffer, count)
    }

    /// Writes the file as the guest would, whatever the host may touch. Answers as `guestRead`, and
    /// -ENOMEM when the page cannot be allocated.
    public func guestWrite(
        _ descriptor: Int32, _ offset: UInt64, _ buffer: UnsafeRawPointer, _ count: Int
    ) -> Int {
        guard let file = guestMemory(descriptor) else { return LinuxErrno.badFileDescriptor.result }
        return unsafe file.write(offset, buffer, count)
    }

    /// The truth about a page, nil when there is no such page or no such guest_memfd.
    public func state(ofPage page: Int, descriptor: Int32) -> Shareability? {
        guard let file = guestMemory(descriptor), page >= 0, page < file.pageCount else { return nil }
        return file.withMap { $0.state(ofPage: page) }
    }

    /// What this kernel has done since it was made.
    public struct Counters: Equatable, Sendable {
        /// Conversion calls that were made, refused and failed ones included.
        public var conversionCalls = 0
        /// Those that changed the state of at least one page.
        public var conversions = 0
        /// Those answered EAGAIN because somebody held a page.
        public var conversionsRefused = 0
        /// Calls that failed because the process has no kernel mappings left (`Mechanism.holes`).
        public var mapLimitHits = 0
    }

    public var counters: Counters { counting.withLock { $0 } }
}

/// A call that fails by arrangement.
public struct ScriptedFault: Sendable {
    public enum Call: Equatable, Sendable {
        /// Opening /dev/kvm.
        case open
        /// This request, on a descriptor of this kernel.
        case ioctl(UInt32)
        /// On a guest_memfd of this kernel, or, where it takes an address, a mapping of one.
        case mmap, munmap, madvise, fallocate, dup
        case sleep, wait
    }

    public var call: Call
    /// What it answers; nothing else happens.
    public var errno: LinuxErrno
    /// Which call is the first to fail: 1 is the next.
    public var nth: Int
    /// How many in a row fail.
    public var times: Int
    /// What a conversion call's structure gets as `error_offset`, in bytes; nil leaves it alone.
    public var errorOffset: UInt64?

    public init(_ call: Call, _ errno: LinuxErrno, nth: Int = 1, times: Int = 1, errorOffset: UInt64? = nil) {
        self.call = call
        self.errno = errno
        self.nth = nth
        self.times = times
        self.errorOffset = errorOffset
    }
}

/// The scripted faults that are still to come.
struct ScriptedFaults {
    private var pending: [ScriptedFault] = []
    var isEmpty: Bool { pending.isEmpty }

    mutating func add(_ fault: ScriptedFault) { if fault.times > 0 { pending.append(fault) } }
    mutating func removeAll() { pending = [] }

    /// Counts a call, and returns the fault it meets.
    mutating func next(_ call: ScriptedFault.Call) -> ScriptedFault? {
        guard let index = pending.firstIndex(where: { $0.call == call }) else { return nil }
        if pending[index].nth > 1 {
            pending[index].nth -= 1
            return nil
        }
        let fault = pending[index]
        pending[index].times -= 1
        if pending[index].times == 0 { pending.remove(at: index) }
        return fault
    }
}
