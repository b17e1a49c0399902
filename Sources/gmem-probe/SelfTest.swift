import CTouch
import Glibc
import GuestMemory

/// The whole life of a guest's memory, step by step, on the strongest level this host offers.
struct SelfTest {
    let payload: String
    let size: UInt64

    /// Where the payload goes: not aligned to a frame, and across two regions when it is long.
    private static let loadAddress: UInt64 = 0x10_1000
    private static let highRegion: UInt64 = 1 << 32

    init(payload: String?, size: UInt64) {
        self.payload = payload ?? "/proc/self/exe"
        self.size = size
    }

    func run() throws(GuestMemoryError) {
        let before = openDescriptors()
        let level = try lifeCycle()
        if let before, let after = openDescriptors() {
            guard before == after else { throw failure("\(before) descriptors were open before, \(after) are after") }
            step("leak nothing", "\(after) descriptors open, as before")
        }
        print("PASS: everything read back as it was written, on level \(level)")
    }

    private func lifeCycle() throws(GuestMemoryError) -> PrivacyLevel {
        let vm = try VirtualMachine.strongest(require: .emulated)
        let level = try MemoryCapabilities.detect(vm).level ?? .emulated
        print("level: \(level): \(level.meaning)")
        var plan = PopulationPlan()
        try plan.add(path: payload, at: Self.loadAddress)
        let loaded = GuestRange(address: Self.loadAddress, size: plan.byteCount)
        let expected = try readFile(payload)

        let page = UInt64(Self.pageSize)
        let low = size - size % page
        guard loaded.address + loaded.size + 16 * page <= low else {
            throw failure("the payload has \(loaded.size) bytes: give the guest more than --size \(size)")
        }
        let memory = try GuestMemory.create(
            in: vm,
            regions: [
                RegionRequest(address: 0, size: low, slot: 0),
                RegionRequest(address: Self.highRegion, size: 16 * page, slot: 1),
            ], initially: .private, require: .emulated)
        step(
            "create",
            "\(low >> 20) MiB at 0 and \(16 * page >> 10) KiB at 4 GiB, all private; \(memory.method)\(mechanism(vm))")

        let everything = GuestRange(address: 0, size: low)
        try memory.preallocate(everything)
        step("preallocate", "\(low >> 20) MiB while private")

        let preview = try memory.preview(plan)
        var options = PopulationOptions()
        options.threads = 2
        options.verifies = true
        let started = now()
        try memory.populate(plan, options)
        step(
            "populate",
            "\(loaded.size) bytes of \(payload) in \(preview.runsToShare.count) runs, \(preview.bytesToWrite) of them "
                + "written, verified, made private; \(preview.conversionCalls) conversions, \((now() - started) / 1000) µs"
        )

        try checkKeptOut(memory, at: loaded.address)
        try change(memory, at: loaded.address + loaded.size)
        try meetHeldPage(memory)
        try readBack(memory, loaded, expected)

        let statistics = memory.statistics
        try memory.close()
        step("close", "slots, views and files gone")
        print(
            "  \(statistics.counters.conversionsToShared) conversions to shared, "
                + "\(statistics.counters.conversionsToPrivate) to private, "
                + "\(statistics.counters.pagesToShared + statistics.counters.pagesToPrivate) pages, "
                + "\(statistics.counters.busyAnswers) EAGAIN, \(statistics.counters.pauses) pauses, "
                + "at most \(statistics.mixedFrames2MPeak) mixed 2 MiB frames")
        print("  policy: \(ConversionPolicy.vmm)")
        return level
    }

    /// How an emulated kernel keeps the host out, which depends on the machine.
    private func mechanism(_ vm: VirtualMachine) -> String {
        guard let emulated = vm.system as? EmulatedKernel else { return "" }
        return emulated.mechanism == .userfaultfd ? ", by userfaultfd" : ", by holes (no userfaultfd here)"
    }

    // MARK: Steps

    /// The host's touch raises the level's signal, and a kernel copy out of the page fails.
    private func checkKeptOut(_ memory: GuestMemory, at address: UInt64) throws(GuestMemoryError) {
        let host = try unsafe hostPointer(memory, address)
        // SAFETY: the touch runs under a handler of its own.
        let touch = unsafe ctouch_read(host)
        guard touch.signal == memory.level.signal, touch.address == UInt64(UInt(bitPattern: host)) else {
            throw failure("a host touch of a private page gave signal \(touch.signal), not \(memory.level.signal)")
        }
        let ends = try openPipe()
        let written = unsafe write(ends.writing, host, 1)
        let answer = errno
        close(ends.reading)
        close(ends.writing)
        guard written == -1, answer == EFAULT else { throw failure("the kernel copied a byte out of a private page") }
        step("keep out", "a touch of \(hex(address)) raises \(name(touch.signal)), write(2) from it EFAULT")
    }

    /// Shares pages behind the payload, changes them, and makes them private again.
    private func change(_ memory: GuestMemory, at address: UInt64) throws(GuestMemoryError) {
        let page = UInt64(Self.pageSize)
        let start = (address + page - 1) / page * page
        let range = GuestRange(address: start, size: 4 * page)
        try memory.convert(range, to: .shared)
        let pattern = (0..<Int(range.size)).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        try memory.write(pattern.span, at: start)
        try memory.convert(range, to: .private)
        try memory.convert(range, to: .shared)
        guard try memory.read(Int(range.size), at: start) == pattern else {
            throw failure("what was written to \(range) did not survive private and back")
        }
        try memory.convert(range, to: .private)
        step("share, change, make private", "\(range): contents survive")
    }

    /// A conversion meets a page that somebody holds: it fails with nothing changed while the holder keeps
    /// it, and succeeds when the holder, asked, lets go.
    private func meetHeldPage(_ memory: GuestMemory) throws(GuestMemoryError) {
        let page = UInt64(Self.pageSize)
        let range = GuestRange(address: Self.highRegion, size: 16 * page)
        let heldPage = GuestRange(address: Self.highRegion + 5 * page, size: page)
        try memory.convert(range, to: .shared)
        try memory.write([1].span, at: heldPage.address)

        let holder: any PageHolder =
            memory.level == .kernel
            ? try unsafe PipeHolder(hostPointer(memory, heldPage.address), Self.pageSize)
            : try LeaseHolder(memory, heldPage)
        var policy = ConversionPolicy.vcpu
        policy.deadline = 30_000_000
        var refusal: GuestMemoryError?
        do throws(GuestMemoryError) {
            try memory.convert(range, to: .private, policy: policy)
        } catch {
            refusal = error
        }
        guard let refusal, refusal.code == .held, refusal.outcome == .failed,
            refusal.range?.address == heldPage.address
        else {
            throw failure("a held page was not reported: \(refusal.map { "\($0)" } ?? "converted")")
        }
        step("held page", "\(holder.what) holds \(hex(heldPage.address)): refused, nothing changed")

        policy.deadline = 5_000_000_000
        policy.onBusy = { busy in
            holder.letGo()
            return .retry
        }
        try memory.convert(range, to: .private, policy: policy)
        step("recover", "asked by the conversion, the holder lets go; \(range) is private")
    }

    private func readBack(
        _ memory: GuestMemory, _ loaded: GuestRange, _ expected: [UInt8]
    ) throws(GuestMemoryError) {
        let range = loaded.roundedOut(to: UInt64(Self.pageSize))!
        try memory.convert(range, to: .shared)
        guard try memory.read(expected.count, at: loaded.address) == expected else {
            throw failure("the payload read back differs from its file")
        }
        try memory.convert(range, to: .private)
        step("read back", "\(expected.count) bytes equal the file")
    }

    // MARK: -

    private static let pageSize = Int(sysconf(Int32(_SC_PAGESIZE)))

    private func step(_ name: String, _ text: String) { print("  ok  \(name): \(text)") }

    private func failure(_ text: String) -> GuestMemoryError {
        GuestMemoryError(.verifyFailed, "self-test", nil, text)
    }

    private func hostPointer(
        _ memory: GuestMemory, _ address: UInt64
    ) throws(GuestMemoryError) -> UnsafeMutableRawPointer {
        let host = try memory.hostAddress(of: GuestRange(address: address, size: 1))
        return unsafe UnsafeMutableRawPointer(bitPattern: host)!
    }

    private func readFile(_ path: String) throws(GuestMemoryError) -> [UInt8] {
        guard let file = unsafe fopen(path, "r") else { throw failure("\(path) cannot be read") }
        defer { unsafe fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = unsafe fread(&buffer, 1, buffer.count, file)
            if count == 0 { return bytes }
            bytes += buffer[..<count]
        }
    }

    private func now() -> UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    private func name(_ signal: Int32) -> String { signal == SIGBUS ? "SIGBUS" : "SIGSEGV" }
}

/// Open descriptors of this process, nil without /proc.
func openDescriptors() -> Int? {
    guard let directory = unsafe opendir("/proc/self/fd") else { return nil }
    defer { unsafe closedir(directory) }
    var count = 0
    while unsafe readdir(directory) != nil { count += 1 }
    // Not `.`, `..`, nor the directory itself.
    return count - 3
}
