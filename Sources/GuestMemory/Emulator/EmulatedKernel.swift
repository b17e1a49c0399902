import CGmem

/// A kernel with guest_memfd, in this process: answers /dev/kvm, VM and guest_memfd calls as the kernel
/// that its configuration names would, with real memory behind them, and passes everything else to the
/// kernel of this machine.
///
/// Private pages raise SIGBUS (BUS_ADRERR, the byte's address) on every mapping made through this
/// kernel's `mmap`, calls of the real kernel get EFAULT there, and contents survive conversion. It
/// protects against bugs, not attackers: other processes, a forked child's inherited mappings and
/// /proc/self/mem see through it.
///
/// Descriptors are real numbers, and mappings real addresses. They are this kernel's while they are
/// duplicated, closed and unmapped through it: a number or an address that was given back with libc and
/// is in use elsewhere would still be taken for the emulated file. What stands behind a descriptor for
/// libc itself answers read, write and mmap with an error.
///
/// Any thread may call. Structures that calls point to must be readable and writable memory of this
/// process; only a null pointer is answered with EFAULT.
public final class EmulatedKernel: SystemCalls, @unchecked Sendable {
    public let configuration: Configuration
    /// How private pages are kept from the host; never `.automatic`.
    public var mechanism: Mechanism { guardian.isUserfault ? .userfaultfd : .holes }
    public var isEmulated: Bool { true }
    public let pageSize: Int

    let linux = LinuxSystemCalls.shared
    let guardian: PageGuardian
    let clock: VirtualClock
    let descriptors = Locked(DescriptorTable())
    let faults = Locked(ScriptedFaults())
    let references: Locked<PageReferences>
    let counting = Locked(Counters())
    /// Held over every change to host mappings. Taken before any file's lock, and only its holder may
    /// have the locks of several files.
    let mappingLock = Lock()
    /// Files with host mappings: a mapping keeps its file, as in the kernel. Under `mappingLock`.
    var mappedFiles: [EmulatedFile] = []
    private let randomness: Locked<SeededRandom>
    private var nextFileID: UInt64 = 1

    /// Throws `.unsupported` when the configuration insists on userfaultfd and this machine has none to
    /// give, `.systemCall` when a descriptor it needs cannot be had.
    public init(_ configuration: Configuration = .linuxNext) throws(GuestMemoryError) {
        self.configuration = configuration
        pageSize = linux.pageSize
        guardian = try PageGuardian(configuration.mechanism)
        clock = VirtualClock(registeredThreads: configuration.registeredThreads)
        references = Locked(PageReferences(seed: configuration.seed))
        randomness = Locked(SeededRandom(seed: ~configuration.seed))
    }

    deinit {
        // The kernel that kept the host out is gone: what it guarded must not become readable.
        for file in mappedFiles { file.unmapAll() }
    }

    /// The fault that is arranged for this call, if any.
    func scripted(_ call: ScriptedFault.Call) -> ScriptedFault? {
        faults.withLock { $0.isEmpty ? nil : $0.next(call) }
    }

    func target(_ descriptor: Int32) -> EmulatedObject? { descriptors.withLock { $0[descriptor] } }

    func guestMemory(_ descriptor: Int32) -> EmulatedFile? {
        if case .guestMemory(let file) = target(descriptor) { return file }
        return nil
    }

    func newFileID() -> UInt64 {
        counting.withLock { _ in
            defer { nextFileID += 1 }
            return nextFileID
        }
    }

    // MARK: Descriptors and files

    public func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int {
        guard unsafe Self.isDevice(path) else { return unsafe linux.open(path, flags) }
        if let fault = scripted(.open) { return fault.errno.result }
        return install(.device, closeOnExec: flags & CGMEM_O_CLOEXEC != 0)
    }

    /// Gives an object its first descriptor.
    func install(_ object: EmulatedObject, closeOnExec: Bool) -> Int {
        let number = cgmem_placeholder_create(closeOnExec ? 1 : 0)
        if number >= 0 { descriptors.withLock { $0.insert(object, at: Int32(number)) } }
        return number
    }

    public func close(_ descriptor: Int32) -> Int {
        // Out of the table before the number is free: somebody else may have it an instant later. The
        // object may die with it, so it leaves the lock first.
        let object = descriptors.withLock { $0.remove(descriptor) }
        return withExtendedLifetime(object) { linux.close(descriptor) }
    }

    public func dup(_ descriptor: Int32) -> Int {
        guard let object = target(descriptor) else { return linux.dup(descriptor) }
        if let fault = scripted(.dup) { return fault.errno.result }
        let copy = linux.dup(descriptor)
        if copy >= 0 { descriptors.withLock { $0.insert(object, at: Int32(copy)) } }
        return copy
    }

    public func setCloseOnExec(_ descriptor: Int32) -> Int { linux.setCloseOnExec(descriptor) }

    public func pread(
        _ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64
    ) -> Int {
        switch target(descriptor) {
        case nil: unsafe linux.pread(descriptor, buffer, count, offset)
        case .device: LinuxErrno.invalid.result
        case .virtualMachine, .guestMemory: LinuxErrno.illegalSeek.result
        }
    }

    public func lseek(_ descriptor: Int32, _ offset: Int64, _ whence: Int32) -> Int {
        switch target(descriptor) {
        case nil: linux.lseek(descriptor, offset, whence)
        case .device, .virtualMachine: 0
        case .guestMemory: LinuxErrno.illegalSeek.result
        }
    }

    // MARK: Randomness and time

    /// Repeatable by the configuration's seed.
    public func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        randomness.withLock { random in
            var word: UInt64 = 0
            for index in 0..<max(0, count) {
                if index % 8 == 0 { word = random.next() }
                unsafe buffer.storeBytes(
                    of: UInt8(truncatingIfNeeded: word), toByteOffset: index, as: UInt8.self)
                word >>= 8
            }
            return max(0, count)
        }
    }

    public func now() -> UInt64 { clock.now }

    public func sleep(nanoseconds: UInt64) -> Int {
        if let fault = scripted(.sleep) { return fault.errno.result }
        return clock.sleep(nanoseconds: nanoseconds)
    }

    /// -EDEADLK when it would wait for ever and every registered thread is blocked.
    public func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        if let fault = scripted(.wait) { return fault.errno.result }
        return unsafe clock.wait(word, expected, deadline)
    }

    public func wake(_ word: UnsafeMutablePointer<UInt32>) -> Int { unsafe clock.wake(word) }
}

extension EmulatedKernel {
    /// How many threads must be blocked in `sleep` or `wait` before the clock moves; at least 1.
    public var registeredThreads: Int {
        get { clock.registeredThreads }
        set { clock.registeredThreads = newValue }
    }

    /// One thread fewer to wait for; the last one stays.
    public func unregisterThread() { clock.unregisterThread() }

    /// Moves the clock by hand.
    public func advanceClock(nanoseconds: UInt64) { clock.advance(nanoseconds: nanoseconds) }

    /// Makes every blocked `sleep` and `wait` answer -EINTR, as a signal would; returns how many.
    @discardableResult
    public func interruptWaiters() -> Int { clock.interrupt() }

    private static func isDevice(_ path: UnsafePointer<CChar>) -> Bool {
        let name: StaticString = "/dev/kvm"
        for index in 0..<name.utf8CodeUnitCount {
            if unsafe UInt8(bitPattern: path[index]) != name.utf8Start[index] { return false }
        }
        return unsafe path[name.utf8CodeUnitCount] == 0
    }
}
