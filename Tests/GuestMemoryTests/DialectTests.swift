import CGmem
import Testing

@testable import GuestMemory

/// What each dialect hands to the kernel, byte for byte, and how its answer is read. From the interface's
/// description alone: the emulator is not asked.
@Suite struct DialectTests {
    /// Keeps the bytes of the last call, and answers as told.
    final class Recorder: ForwardingSystemCalls, @unchecked Sendable {
        var request: UInt32 = 0
        var descriptor: Int32 = -1
        var words: [UInt64] = []
        var answer: (result: Int, wordAt: Int, value: UInt64) = (0, -1, 0)

        override func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
            self.descriptor = descriptor
            self.request = request
            // The size is in bits 16 to 29 of an ioctl's number.
            let count = Int(request >> 16 & 0x3FFF) / 8
            let pointer = unsafe UnsafeMutablePointer<UInt64>(bitPattern: argument)!
            words = (0..<count).map { unsafe pointer[$0] }
            if answer.wordAt >= 0 { unsafe pointer[answer.wordAt] = answer.value }
            return answer.result
        }
    }

    struct Encoding {
        var dialect: ConversionDialect
        var numbers: (shared: UInt32, private: UInt32)
        var bytes: Int
        /// Index of the attributes word, nil where the number says it.
        var attributesAt: Int?
        /// Index of the error offset, nil where there is none.
        var errorOffsetAt: Int?
    }

    static let encodings = [
        Encoding(
            dialect: .attributes2, numbers: (0xC080_AED2, 0xC080_AED2), bytes: 128, attributesAt: 2, errorOffsetAt: 4),
        Encoding(
            dialect: .attributes2RFC1, numbers: (0xC040_AED6, 0xC040_AED6), bytes: 64, attributesAt: 2, errorOffsetAt: 4
        ),
        Encoding(
            dialect: .convert, numbers: (0xC040_AF41, 0xC040_AF42), bytes: 64, attributesAt: nil, errorOffsetAt: 2),
        Encoding(
            dialect: .vmAttributes, numbers: (0x4020_AED2, 0x4020_AED2), bytes: 32, attributesAt: 2, errorOffsetAt: nil),
    ]

    @Test(arguments: encodings.indices, Shareability.allCases)
    func encodes(index: Int, state: Shareability) {
        let encoding = Self.encodings[index]
        let kernel = Recorder()
        let result = encoding.dialect.convert(7, offset: 0x3000, size: 0x5000, to: state, on: kernel)
        #expect(result.result == 0)
        #expect(kernel.descriptor == 7)
        #expect(kernel.request == (state == .shared ? encoding.numbers.shared : encoding.numbers.private))
        var expected = [UInt64](repeating: 0, count: encoding.bytes / 8)
        expected[0] = 0x3000
        expected[1] = 0x5000
        if let at = encoding.attributesAt, state == .private { expected[at] = 8 }
        #expect(kernel.words == expected, "everything else, error_offset among it, is 0")
    }

    @Test(arguments: encodings.indices)
    func readsTheErrorOffset(index: Int) {
        let encoding = Self.encodings[index]
        let kernel = Recorder()
        kernel.answer = (LinuxErrno.again.result, encoding.errorOffsetAt ?? -1, 0x6000)
        let answer = encoding.dialect.convert(7, offset: 0x3000, size: 0x5000, to: .private, on: kernel)
        #expect(answer.result == -11)
        #expect(answer.errorOffset == (encoding.errorOffsetAt == nil ? 0x3000 : 0x6000))
        // The next attempt starts from 0 again.
        _ = encoding.dialect.convert(7, offset: 0x3000, size: 0x5000, to: .private, on: kernel)
        if let at = encoding.errorOffsetAt { #expect(kernel.words[at] == 0) }
    }

    @Test func whoCanBeBusy() {
        let busy = ConversionDialect.allCases.map { dialect in Shareability.allCases.map { dialect.canBeBusy(to: $0) } }
        // In the order of the cases 2b, 2a, 1, L; to private, to shared.
        #expect(busy == [[true, false], [true, true], [true, false], [false, false]])
    }

    /// Guard pages need no kernel dialect, but the host's view and its page size.
    @Test(.enabled(if: TestKernel.available.contains(.process), "level process is not to be had here"))
    func guardsWorkOnLockedMemory() throws {
        let memory = try TestKernel.process.memory(initially: .shared)
        try memory.write([1, 2, 3].span, at: 0)
        let host = try memory.hostAddress(of: pages(0, 256))
        // One page in the middle is locked, as mlockall(MCL_CURRENT) would: guards cannot be set there.
        #expect(cgmem_mlock(host + UInt(100 * pageBytes), Int(pageBytes)) == 0)
        #expect(try memory.convert(pages(0, 256), to: .private) == .converted(pages: 256))
        #expect(try memory.convert(pages(0, 256), to: .shared) == .converted(pages: 256))
        #expect(try memory.read(3, at: 0) == [1, 2, 3])
        try memory.close()
    }

    /// Guards are set page by page: where the call fails half-way, the run is put back.
    @Test(.enabled(if: TestKernel.available.contains(.process), "level process is not to be had here"))
    func aGuardCallThatFailsLeavesNoTraces() throws {
        let kernel = HalfGuarding()
        let vm = try KVMDevice.open(on: kernel).createVirtualMachine()
        let memory = try GuestMemory.create(
            in: vm, regions: [RegionRequest(address: 0, size: 16 * pageBytes)], initially: .shared, require: .process)
        try memory.write([9].span, at: 0)
        kernel.failures = 100
        let failure = error { () throws(GuestMemoryError) in try memory.convert(pages(0, 16), to: .private) }
        #expect(failure?.outcome == .failed)
        #expect(try memory.read(1, at: 0) == [9], "page 0 was guarded by the call that failed, and is not now")
        kernel.failures = 0
        #expect(try memory.convert(pages(0, 16), to: .private) == .converted(pages: 16))
        try memory.close()
    }

    /// A kernel whose MADV_GUARD_INSTALL runs out of memory after the first page.
    final class HalfGuarding: ForwardingSystemCalls, @unchecked Sendable {
        var failures = 0

        override func madvise(_ address: UInt, _ length: Int, _ advice: Int32) -> Int {
            if advice == CGMEM_MADV_GUARD_INSTALL, failures > 0 {
                failures -= 1
                _ = super.madvise(address, Int(pageBytes), advice)
                return LinuxErrno.noMemory.result
            }
            return super.madvise(address, length, advice)
        }
    }
}
