import CGmem
import Foundation
import Testing

@testable import GuestMemory

/// Payloads, on every kernel there is.
@Suite struct PopulationTests {
    /// No zeros, and a period that no page has.
    static func pattern(_ count: Int, _ seed: Int = 1) -> [UInt8] {
        let block = (0..<10_007).map { UInt8(truncatingIfNeeded: ($0 &* 2_654_435_761 &+ seed &* 97) >> 7) | 1 }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + block.count)
        while bytes.count < count { bytes += block }
        return Array(bytes.prefix(count))
    }

    static func isZero(_ bytes: [UInt8]) -> Bool {
        unsafe bytes.withUnsafeBytes { unsafe cgmem_is_zero($0.baseAddress, $0.count) }
    }

    /// Reads a range by sharing it.
    func readBack(_ memory: GuestMemory, _ address: UInt64, _ count: Int) throws -> [UInt8] {
        let first = address & ~(pageBytes - 1)
        let end = (address + UInt64(count) + pageBytes - 1) & ~(pageBytes - 1)
        try memory.convert(GuestRange(first..<end), to: .shared)
        defer { _ = try? memory.convert(GuestRange(first..<end), to: .private) }
        return try memory.read(count, at: address)
    }

    /// A file with these contents, at these offsets; holes between them.
    func file(_ parts: [(Int, [UInt8])], size: Int) throws -> String {
        let path = NSTemporaryDirectory() + "gmem-\(UUID().uuidString)"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        let handle = FileHandle(forWritingAtPath: path)!
        try handle.truncate(atOffset: UInt64(size))
        for (offset, bytes) in parts {
            try handle.seek(toOffset: UInt64(offset))
            handle.write(Data(bytes))
        }
        try handle.close()
        return path
    }

    @Test(arguments: TestKernel.available, [1, 2])
    func placesBytesFilesAndZeros(kernel: TestKernel, threads: Int) throws {
        let memory = try kernel.memory([
            RegionRequest(address: 0, size: 20 << 20, slot: 0),
            RegionRequest(address: 20 << 20, size: 1 << 20, slot: 1),
        ])
        let bytes = Self.pattern(5 * Int(pageBytes) + 77)
        let contents = Self.pattern(9 << 20, 2)
        let path = try file([(0, contents)], size: contents.count)
        defer { try? FileManager.default.removeItem(atPath: path) }
        var plan = PopulationPlan()
        plan.add(bytes, at: 3 * pageBytes + 100)
        try plan.add(path: path, at: (11 << 20) + 5)
        plan.addZeros(2 * pageBytes, at: 9 * pageBytes)
        var options = PopulationOptions()
        options.threads = threads
        options.verifies = true
        try memory.populate(plan, options)
        #expect(memory.statistics.sharedBytes == 0)
        #expect(memory.statistics.leases == 0)
        #expect(try readBack(memory, 3 * pageBytes + 100, bytes.count) == bytes)
        #expect(try readBack(memory, (11 << 20) + 5, contents.count) == contents)
        #expect(try Self.isZero(readBack(memory, 9 * pageBytes, Int(2 * pageBytes))))
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func previewSaysWhatWillHappen(kernel: TestKernel) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 8 << 20)])
        var plan = PopulationPlan()
        plan.add(Self.pattern(100), at: pageBytes + 5)
        plan.add(Self.pattern(100), at: 2 * pageBytes)
        plan.add(Self.pattern(2 << 20), at: 4 << 20)
        plan.addZeros(pageBytes, at: 6 << 20)
        let preview = try memory.preview(plan)
        #expect(preview.runsToShare == [pages(1, 2), GuestRange(address: 4 << 20, size: 2 << 20)])
        #expect(preview.splitFrames2M == [0], "the frame at 4 MiB is shared whole")
        #expect(preview.splitFrames1G == [0])
        #expect(preview.bytesToWrite == (2 << 20) + 200)
        #expect(preview.runsToDiscard == [GuestRange(address: 6 << 20, size: pageBytes)])
        let counters = memory.statistics.counters
        #expect(counters.conversionsToShared == 0)
        try memory.populate(plan)
        let after = memory.statistics.counters
        #expect(Int(after.conversionsToShared + after.conversionsToPrivate) == preview.conversionCalls)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func sharedPagesStayShared(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(2, 2), to: .shared)
        try memory.populate(PopulationPlan(Self.pattern(Int(4 * pageBytes)), at: pageBytes))
        #expect((1..<5).map { memory.shareability(at: $0 * pageBytes) } == [.private, .shared, .shared, .private])
        #expect(
            try memory.read(Int(2 * pageBytes), at: 2 * pageBytes)
                == Array(Self.pattern(Int(4 * pageBytes))[Int(pageBytes)...].prefix(Int(2 * pageBytes))))
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func holesOfSparseFilesAreNotEvenShared(kernel: TestKernel) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 4 << 20)])
        let part = Self.pattern(64 << 10)
        let path = try file([(1 << 20, part)], size: 3 << 20)
        defer { try? FileManager.default.removeItem(atPath: path) }
        var plan = PopulationPlan()
        try plan.add(path: path, at: 0)
        let preview = try memory.preview(plan)
        #expect(preview.bytesToWrite < 1 << 20, "the file system keeps no holes?")
        try memory.populate(plan)
        #expect(try readBack(memory, 1 << 20, part.count) == part)
        #expect(try Self.isZero(readBack(memory, 0, 1 << 20)))
        try memory.close()
    }

    /// Many small pieces of data cost in proportion to their number.
    @Test(arguments: TestKernel.available)
    func aFileOfManyExtents(kernel: TestKernel) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 16 << 20)])
        let data = Self.pattern(Int(pageBytes))
        let extents = 1024
        let path = try file((0..<extents).map { ($0 * 2 * Int(pageBytes), data) }, size: extents * 2 * Int(pageBytes))
        defer { try? FileManager.default.removeItem(atPath: path) }
        var plan = PopulationPlan()
        try plan.add(path: path, at: 0)
        var options = PopulationOptions()
        options.verifies = true
        try memory.populate(plan, options)
        for index in [0, 511, 1023] {
            #expect(try readBack(memory, UInt64(index) * 2 * pageBytes, data.count) == data)
            #expect(try Self.isZero(readBack(memory, UInt64(index) * 2 * pageBytes + pageBytes, data.count)))
        }
        #expect(memory.statistics.sharedBytes == 0)
        try memory.close()
    }

    /// Zeros replace what was there, the guest's own writes included, whether they are written or punched.
    @Test(arguments: TestKernel.available, [PopulationOptions.Zeros.unallocated, .written])
    func zerosOverwriteWhatWasThere(kernel: TestKernel, zeros: PopulationOptions.Zeros) throws {
        let memory = try kernel.memory()
        var options = PopulationOptions()
        options.verifies = true
        options.zeros = zeros
        try memory.populate(PopulationPlan(Self.pattern(Int(16 * pageBytes)), at: 0), options)
        var image = Self.pattern(Int(8 * pageBytes), 3)
        for index in Int(2 * pageBytes)..<Int(5 * pageBytes) + 100 { image[index] = 0 }
        try memory.populate(PopulationPlan(image, at: 0), options)
        #expect(try readBack(memory, 0, image.count) == image)
        let path = try file([], size: Int(2 * pageBytes) + 50)
        defer { try? FileManager.default.removeItem(atPath: path) }
        var plan = PopulationPlan()
        try plan.add(path: path, at: 10)
        plan.addZeros(3 * pageBytes, at: 7 * pageBytes + 1)
        try memory.populate(plan, options)
        #expect(try Self.isZero(readBack(memory, 10, Int(2 * pageBytes) + 50)))
        #expect(try Self.isZero(readBack(memory, 7 * pageBytes + 1, Int(3 * pageBytes))))
        #expect(try readBack(memory, 0, 10) == Array(image[..<10]), "what is beside the zeros stays")
        let old = Self.pattern(Int(16 * pageBytes))
        #expect(
            try readBack(memory, 10 * pageBytes + 1, 100)
                == Array(old[Int(10 * pageBytes) + 1..<Int(10 * pageBytes) + 101]))
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func badPlansAreRefusedWhole(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        let path = try file([(0, Self.pattern(100))], size: 100)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let descriptor = unsafe open(path, O_RDONLY)
        defer { close(descriptor) }
        let ends = Pipe()
        let good = (bytes: Self.pattern(100), address: UInt64(0))
        let bad: [(GuestMemoryError.Code, (inout PopulationPlan) -> Void)] = [
            (.badSize, { $0.add([], at: pageBytes) }),
            (.overlap, { $0.add([1], at: 99) }),
            (.notGuestMemory, { $0.add([1], at: 1 << 20) }),
            (.notGuestMemory, { $0.add([1, 2], at: (1 << 20) - 1) }),
            (.badRange, { $0.add([1, 2], at: .max) }),
            (.badRange, { $0.addZeros(.max, at: pageBytes) }),
            (.shortSource, { $0.add(file: descriptor, offset: 0, count: 101, at: pageBytes) }),
            (.shortSource, { $0.add(file: descriptor, offset: 101, count: 1, at: pageBytes) }),
            (.shortSource, { $0.add(file: descriptor, offset: .max, count: 2, at: pageBytes) }),
            (.badDescriptor, { $0.add(file: ends.fileHandleForReading.fileDescriptor, count: 1, at: pageBytes) }),
            (.badDescriptor, { $0.add(file: 99_999, count: 1, at: pageBytes) }),
        ]
        for (code, addBad) in bad {
            var plan = PopulationPlan(good.bytes, at: good.address)
            addBad(&plan)
            let refusal = error { () throws(GuestMemoryError) in try memory.populate(plan) }
            #expect(refusal?.code == code)
            #expect(refusal?.message.isEmpty == false)
        }
        #expect(memory.statistics.counters.conversionsToShared == 0)
        #expect(try Self.isZero(readBack(memory, 0, 100)), "nothing was written")

        var plan = PopulationPlan()
        let missing = error { () throws(GuestMemoryError) in try plan.add(path: "/nonexistent/kernel", at: 0) }
        #expect(missing?.code == .notFound)
        #expect(missing?.description.contains("/nonexistent/kernel") == true)
        let directory = error { () throws(GuestMemoryError) in try plan.add(path: "/tmp", at: 0) }
        #expect(directory?.code == .badDescriptor)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func aFileThatShrinksIsAnErrorAndStatesAreAsBefore(kernel: TestKernel) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 32 << 20)])
        let path = try file([(0, Self.pattern(24 << 20))], size: 24 << 20)
        defer { try? FileManager.default.removeItem(atPath: path) }
        var plan = PopulationPlan()
        try plan.add(path: path, at: 0)
        var options = PopulationOptions()
        options.progress = { done, total in
            // After the first piece somebody truncates the file.
            _ = unsafe truncate(path, 9 << 20)
            return true
        }
        let failure = error { () throws(GuestMemoryError) in try memory.populate(plan, options) }
        #expect(failure?.code == .shortSource)
        #expect(memory.statistics.sharedBytes == 0)
        #expect(memory.statistics.leases == 0)
        try memory.close()
    }

    @Test(arguments: TestKernel.available, [1, 2])
    func progressCountsUpAndCancels(kernel: TestKernel, threads: Int) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 40 << 20)])
        let plan = PopulationPlan(Self.pattern(33 << 20), at: pageBytes)
        var options = PopulationOptions()
        options.threads = threads
        let total: UInt64 = 33 << 20
        nonisolated(unsafe) var seen: [UInt64] = []
        options.progress = { done, sum in
            #expect(sum == total)
            unsafe seen.append(done)
            return false
        }
        let failure = error { () throws(GuestMemoryError) in try memory.populate(plan, options) }
        // The other thread may have been quick: when all is done, it is too late to stop.
        #expect(unsafe failure?.code == (seen[0] < total ? .cancelled : nil))
        if threads == 1 { #expect(unsafe seen == [(8 << 20) - pageBytes]) }
        #expect(memory.statistics.sharedBytes == 0)
        options.progress = { done, _ in
            unsafe seen.append(done)
            return true
        }
        unsafe seen = []
        try memory.populate(plan, options)
        #expect(unsafe seen.last == 33 << 20)
        #expect(unsafe seen == seen.sorted())
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func previewOfARegionInTheMiddleOfAFrame(kernel: TestKernel) throws {
        let vm = try kernel.machine()
        let flags = try MemoryCapabilities.detect(vm).creationFlags(for: .shared).flags
        let file = try GuestMemfd.create(in: vm, size: 4 << 20, flags: flags)
        let memory = try GuestMemory.create(
            in: vm,
            regions: [
                RegionRequest(
                    address: 0, size: 2 << 20,
                    backing: .existing(descriptor: file.descriptor, offset: 1 << 20, state: .private))
            ], require: kernel.level)
        let preview = try memory.preview(PopulationPlan(Self.pattern(100), at: 0))
        #expect(preview.runsToShare == [pages(0)])
        try memory.close()
    }

    /// Whatever fails on whichever thread: the error lists exactly the pages that stay shared.
    @Test(
        .enabled(if: TestKernel.available.contains(.process), "level process is not to be had here"), arguments: [1, 2])
    func pagesLeftSharedAreAllListed(threads: Int) throws {
        let kernel = DialectTests.HalfGuarding()
        let vm = try KVMDevice.open(on: kernel).createVirtualMachine()
        let memory = try GuestMemory.create(
            in: vm, regions: [RegionRequest(address: 0, size: 64 << 20)], require: .process)
        kernel.failures = .max
        var options = PopulationOptions()
        options.threads = threads
        options.policy.deadline = 1_000_000
        let failure = error { () throws(GuestMemoryError) in
            try memory.populate(PopulationPlan(Self.pattern(40 << 20), at: 0), options)
        }
        kernel.failures = 0
        #expect(failure?.code == .noMemory)
        #expect(failure?.outcome == .partial(memory.runs(in: GuestRange(address: 0, size: .max), .shared)))
        #expect(memory.statistics.sharedBytes >= 8 << 20)
        try memory.convert(GuestRange(address: 0, size: 64 << 20), to: .private)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func verificationCatchesAnotherWriter(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        let source = UnsafeMutableRawPointer.allocate(byteCount: Int(64 * pageBytes), alignment: 4096)
        defer { unsafe source.deallocate() }
        unsafe source.initializeMemory(as: UInt8.self, repeating: 7, count: Int(64 * pageBytes))
        var plan = PopulationPlan()
        unsafe plan.add(UnsafeRawBufferPointer(start: source, count: Int(64 * pageBytes)), at: 0)
        var options = PopulationOptions()
        options.verifies = true
        try memory.populate(plan, options)
        #expect(try readBack(memory, 0, 4) == [7, 7, 7, 7])
        // A file whose contents change between being read and being compared.
        let path = try file([(0, [UInt8](repeating: 7, count: Int(pageBytes)))], size: Int(pageBytes))
        defer { try? FileManager.default.removeItem(atPath: path) }
        let writer = SegmentWriter(system: RewritingKernel(path), punchesZeros: true, verifies: true)
        try memory.convert(pages(100), to: .shared)
        let descriptor = unsafe open(path, O_RDONLY)
        defer { close(descriptor) }
        let info = memory.regionInfos[0]
        let piece = SegmentWriter.Piece(
            segment: PayloadSegment(range: pages(100), source: .file(descriptor: descriptor, offset: 0)),
            host: info.hostAddress + UInt(100 * pageBytes), file: info.descriptor, fileOffset: 100 * pageBytes)
        let failure = error { () throws(GuestMemoryError) in try writer.write(piece) }
        #expect(failure?.code == .verifyFailed)
        try memory.close()
    }
}

/// The kernel of this machine, on which a file is rewritten right after it was first read.
private final class RewritingKernel: ForwardingSystemCalls, @unchecked Sendable {
    private let path: String
    private var reads = 0

    init(_ path: String) { self.path = path }

    override func pread(
        _ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64
    ) -> Int {
        let result = unsafe super.pread(descriptor, buffer, count, offset)
        reads += 1
        if reads == 1 { try? Data(repeating: 8, count: count).write(to: URL(fileURLWithPath: path), options: []) }
        return result
    }
    // The piece's file may be an emulated one, which this kernel does not know.
    override func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int { 0 }
}
