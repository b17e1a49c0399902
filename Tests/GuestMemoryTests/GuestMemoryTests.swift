import CTouch
import Testing

@testable import GuestMemory

/// What a guest's memory does, the same on every kernel there is.
@Suite struct GuestMemoryTests {
    /// Whether the host can touch the page, by touching it: shared, or the level's signal at that byte.
    func touch(_ memory: GuestMemory, _ address: UInt64) -> Shareability? {
        guard let host = try? memory.hostAddress(of: GuestRange(address: address, size: 1)) else { return nil }
        let pointer = unsafe UnsafeMutableRawPointer(bitPattern: host)!
        let result = unsafe ctouch_read(pointer)
        if result.signal == 0 { return .shared }
        return result.signal == memory.level.signal && result.address == UInt64(UInt(bitPattern: pointer))
            ? .private : nil
    }

    @Test(arguments: TestKernel.available, Shareability.allCases)
    func startsInTheStateAskedFor(kernel: TestKernel, state: Shareability) throws {
        let memory = try kernel.memory(initially: state)
        #expect(memory.level == kernel.level)
        for address in [0, pageBytes, 255 * pageBytes + 17] {
            #expect(memory.shareability(at: address) == state)
            #expect(touch(memory, address) == state)
        }
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func convertsExactlyTheRangeAndKeepsContents(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        #expect(try memory.convert(pages(3, 4), to: .shared) == .converted(pages: 4))
        let pattern = (0..<Int(4 * pageBytes)).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8) }
        try memory.write(pattern.span, at: 3 * pageBytes)
        for index in UInt64(0)..<10 {
            #expect(touch(memory, index * pageBytes + 5) == ((3..<7).contains(index) ? .shared : .private))
        }
        #expect(try memory.convert(pages(4, 2), to: .private) == .converted(pages: 2))
        #expect(touch(memory, 4 * pageBytes) == .private)
        #expect(touch(memory, 3 * pageBytes) == .shared)
        #expect(touch(memory, 6 * pageBytes) == .shared)
        #expect(try memory.convert(pages(3, 4), to: .shared) == .converted(pages: 2))
        #expect(try memory.read(Int(4 * pageBytes), at: 3 * pageBytes) == pattern)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func aRepeatedRequestAsksNobody(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        #expect(try memory.convert(pages(0, 256), to: .private) == .unchanged)
        try memory.convert(pages(10, 5), to: .shared)
        #expect(try memory.convert(pages(11, 2), to: .shared) == .unchanged)
        #expect(memory.statistics.counters.unchanged == 2)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func spansRegionsAndMergesRuns(kernel: TestKernel) throws {
        let memory = try kernel.memory([
            RegionRequest(address: 0, size: 64 * pageBytes, slot: 0),
            RegionRequest(address: 64 * pageBytes, size: 64 * pageBytes, slot: 1),
            RegionRequest(address: 1 << 32, size: 64 * pageBytes, slot: 2),
        ])
        try memory.convert(pages(10), to: .shared)
        #expect(try memory.convert(pages(0, 128), to: .shared) == .converted(pages: 127))
        let bytes = (0..<Int(4 * pageBytes)).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        try memory.write(bytes.span, at: 62 * pageBytes + 9)
        #expect(try memory.read(bytes.count, at: 62 * pageBytes + 9) == bytes)
        let statistics = memory.statistics
        #expect(statistics.sharedBytes == 128 * pageBytes)
        #expect(statistics.privateBytes == 64 * pageBytes)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func holesAreAnExplicitPolicy(kernel: TestKernel) throws {
        let memory = try kernel.memory([
            RegionRequest(address: 0, size: 16 * pageBytes),
            RegionRequest(address: 32 * pageBytes, size: 16 * pageBytes),
        ])
        let across = pages(8, 32)
        let refused = error { () throws(GuestMemoryError) in try memory.convert(across, to: .shared) }
        #expect(refused?.code == .notGuestMemory)
        #expect(memory.statistics.sharedBytes == 0)
        var policy = ConversionPolicy.vmm
        policy.holes = .skip
        #expect(try memory.convert(across, to: .shared, policy: policy) == .converted(pages: 16))
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func badRangesAreRefusedBeforeAnythingChanges(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        let bad: [(GuestRange, GuestMemoryError.Code)] = [
            (GuestRange(address: 1, size: pageBytes), .badRange),
            (GuestRange(address: 0, size: pageBytes - 1), .badRange),
            (GuestRange(address: 0, size: 0), .badRange),
            (GuestRange(address: 0 &- pageBytes, size: 2 * pageBytes), .badRange),
            (GuestRange(address: 0 &- pageBytes, size: pageBytes), .badRange),
            (GuestRange(address: pageBytes, size: 0 &- pageBytes), .badRange),
            (GuestRange(address: 255 * pageBytes, size: 2 * pageBytes), .notGuestMemory),
            (GuestRange(address: 1 << 40, size: pageBytes), .notGuestMemory),
        ]
        for (range, code) in bad {
            for state in Shareability.allCases {
                let refusal = error { () throws(GuestMemoryError) in try memory.convert(range, to: state) }
                #expect(refusal?.code == code, "\(range)")
                #expect(refusal?.outcome == nil)
                #expect(refusal?.range == range)
            }
        }
        #expect(memory.statistics.sharedBytes == 0)
        #expect(touch(memory, 0) == .private)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func copiesNeedSharedPages(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(1, 2), to: .shared)
        let bytes = [UInt8](repeating: 0xAB, count: Int(pageBytes))
        let refusal = error { () throws(GuestMemoryError) in try memory.write(bytes.span, at: 2 * pageBytes + 1) }
        #expect(refusal?.code == .notShared)
        #expect(refusal?.range == pages(3))
        #expect(try memory.read(Int(2 * pageBytes), at: pageBytes).allSatisfy { $0 == 0 }, "nothing was written")
        #expect(error { () throws(GuestMemoryError) in try memory.read(1, at: 0) }?.code == .notShared)
        #expect(
            error { () throws(GuestMemoryError) in try memory.read(Int(pageBytes), at: 255 * pageBytes + 1) }?.code
                == .notGuestMemory)
        #expect(error { () throws(GuestMemoryError) in try memory.write(bytes.span, at: .max) }?.code == .badRange)
        #expect(try memory.read(0, at: .max).isEmpty)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func aLeaseKeepsItsPagesSharedAndIsNamed(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(0, 8), to: .shared)
        let lease = try memory.lease(pages(3), label: "vhost-net q3")
        var policy = ConversionPolicy.vcpu
        policy.deadline = 1_000_000
        let refusal = error { () throws(GuestMemoryError) in
            try memory.convert(pages(0, 8), to: .private, policy: policy)
        }
        #expect(refusal?.code == .held)
        #expect(refusal?.outcome == .failed)
        #expect(refusal?.message.contains("vhost-net q3") == true)
        #expect(touch(memory, 0) == .shared)
        #expect(try memory.convert(pages(4, 4), to: .private, policy: policy) == .converted(pages: 4))
        let blocked = error { () throws(GuestMemoryError) in try memory.close() }
        #expect(blocked?.code == .inUse)
        #expect(blocked?.message.contains("vhost-net q3") == true)

        policy.onBusy = { busy in
            #expect(busy.leases == ["vhost-net q3"])
            lease.release()
            return .retry
        }
        #expect(try memory.convert(pages(0, 8), to: .private, policy: policy) == .converted(pages: 4))
        lease.release()
        #expect(error { () throws(GuestMemoryError) in try memory.lease(pages(3), label: "late") }?.code == .notShared)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func waitingForOneselfIsRefused(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(0, 8), to: .shared)
        let inner = try unsafe memory.withSharedBytes(in: pages(2), label: "device model") { _ in
            error { () throws(GuestMemoryError) in try memory.convert(pages(0, 4), to: .private) }
        }
        #expect(inner?.code == .deadlock)
        #expect(inner?.errno == .deadlock)
        #expect(inner?.message.contains("device model") == true)
        #expect(inner?.outcome == .failed)

        let lease = try memory.lease(pages(7), label: "q0")
        var policy = ConversionPolicy.vcpu
        policy.onBusy = { _ in
            let hooked = error { () throws(GuestMemoryError) in try memory.convert(pages(6, 2), to: .private) }
            #expect(hooked?.code == .deadlock)
            let copied = error { () throws(GuestMemoryError) in try memory.read(1, at: 6 * pageBytes) }
            #expect(copied?.code == .deadlock)
            lease.release()
            return .retry
        }
        try memory.convert(pages(4, 4), to: .private, policy: policy)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func closedMemoryAnswersWithAnError(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(0), to: .shared)
        try memory.close()
        try memory.close()
        #expect(error { () throws(GuestMemoryError) in try memory.convert(pages(0), to: .private) }?.code == .closed)
        #expect(error { () throws(GuestMemoryError) in try memory.read(1, at: 0) }?.code == .closed)
        #expect(error { () throws(GuestMemoryError) in try memory.preallocate(pages(0)) }?.code == .closed)
        #expect(error { () throws(GuestMemoryError) in try memory.lease(pages(0), label: "") }?.code == .closed)
        let plan = PopulationPlan([1], at: 0)
        #expect(error { () throws(GuestMemoryError) in try memory.populate(plan) }?.code == .closed)
    }

    @Test(arguments: TestKernel.available)
    func preallocationChangesNoState(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.preallocate(pages(0, 256))
        #expect(memory.statistics.sharedBytes == 0)
        #expect(touch(memory, 5 * pageBytes) == .private)
        #expect(
            error { () throws(GuestMemoryError) in try memory.preallocate(pages(255, 2)) }?.code == .notGuestMemory)
        try memory.convert(pages(2), to: .shared)
        try memory.write([1, 2, 3].span, at: 2 * pageBytes)
        try memory.discard(pages(2))
        #expect(try memory.read(3, at: 2 * pageBytes) == [0, 0, 0])
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func runsAndHostAddresses(kernel: TestKernel) throws {
        let memory = try kernel.memory([
            RegionRequest(address: 0, size: 8 * pageBytes), RegionRequest(address: 8 * pageBytes, size: 8 * pageBytes),
        ])
        try memory.convert(pages(2, 3), to: .shared)
        try memory.convert(pages(7, 2), to: .shared)
        let everything = pages(0, 64)
        #expect(memory.runs(in: everything, .shared) == [pages(2, 3), pages(7), pages(8)])
        #expect(memory.runs(in: everything, .private) == [pages(0, 2), pages(5, 2), pages(9, 7)])
        #expect(memory.runs(in: GuestRange(address: .max, size: 5), .shared).isEmpty)
        #expect(memory.runs(in: GuestRange(address: 1, size: 0), .private).isEmpty)
        #expect(memory.runs(in: GuestRange(address: 0, size: .max), .shared) == [pages(2, 3), pages(7), pages(8)])
        let lease = try memory.lease(GuestRange(address: 8 * pageBytes - 4, size: 10), label: "ring")
        #expect(lease.segments.map(\.count) == [4, 6])
        try memory.write([1, 2, 3, 4, 5, 6, 7, 8, 9, 10].span, at: 8 * pageBytes - 4)
        #expect(unsafe UnsafePointer<UInt8>(bitPattern: lease.segments[1].hostAddress)![0] == 5)
        #expect(error { () throws(GuestMemoryError) in try memory.hostAddress(of: pages(7, 2)) }?.code == .badRange)
        lease.release()
        #expect(error { () throws(GuestMemoryError) in try memory.read(-1, at: 0) }?.code == .badRange)
        #expect(error { () throws(GuestMemoryError) in try memory.read(1 << 44, at: 0) }?.code == .notGuestMemory)
        try memory.close()
    }

    /// What the guest has mapped is discarded too, and the host stays out of what is private.
    @Test(arguments: TestKernel.available)
    func discardingKeepsTheHostOut(kernel: TestKernel) throws {
        let memory = try kernel.memory([RegionRequest(address: 0, size: 16 * pageBytes, slot: 0)])
        try memory.convert(pages(4, 4), to: .shared)
        if kernel == .process {
            // As KVM does, which fetches guest pages through this view.
            let view = memory.regionInfos[0].guestViewAddress
            for index in 0..<16 {
                #expect(
                    unsafe ctouch_write(
                        UnsafeMutableRawPointer(bitPattern: view + UInt(index) * UInt(pageBytes))!, 0x5C
                    ).signal == 0)
            }
        }
        try memory.discard(pages(0, 16))
        try memory.populate(
            {
                var plan = PopulationPlan(); plan.addZeros(16 * pageBytes, at: 0); return plan
            }())
        for index in UInt64(0)..<16 {
            #expect(touch(memory, index * pageBytes) == ((4..<8).contains(index) ? .shared : .private))
        }
        try memory.convert(pages(0, 16), to: .shared)
        #expect(try memory.read(1, at: 2 * pageBytes) == [0])
        try memory.close()
        #expect(error { () throws(GuestMemoryError) in try memory.hostAddress(of: pages(0)) }?.code == .closed)
    }

    @Test(arguments: TestKernel.available)
    func anyPolicyIsTaken(kernel: TestKernel) throws {
        let memory = try kernel.memory()
        try memory.convert(pages(0, 2), to: .shared)
        let lease = try memory.lease(pages(0), label: "q0")
        var policy = ConversionPolicy(deadline: 1_000)
        policy.immediateRetries = .max
        policy.jitterPercent = .max
        policy.firstPause = .max
        policy.longestPause = .max
        #expect(
            error { () throws(GuestMemoryError) in try memory.convert(pages(0), to: .private, policy: policy) }?.code
                == .held)
        lease.release()
        try memory.close()
    }

    /// The VMM's own file outside the regions it described, and after the memory is closed, is the VMM's.
    @Test(arguments: TestKernel.available)
    func anAdoptedFileIsLeftAlone(kernel: TestKernel) throws {
        let vm = try kernel.machine()
        let flags = try MemoryCapabilities.detect(vm).creationFlags(for: .shared).flags
        let file = try GuestMemfd.create(in: vm, size: 32 * pageBytes, flags: flags)
        func adopt(_ offset: UInt64, _ state: Shareability) throws -> GuestMemory {
            try GuestMemory.create(
                in: vm,
                regions: [
                    RegionRequest(
                        address: offset, size: 8 * pageBytes,
                        backing: .existing(descriptor: file.descriptor, offset: offset, state: state))
                ], require: kernel.level)
        }
        let one = try adopt(0, .private)
        let other = try adopt(16 * pageBytes, .shared)
        try other.write([7].span, at: 16 * pageBytes)
        try one.close()
        #expect(try other.read(1, at: 16 * pageBytes) == [7])
        try other.close()

        // A creation that fails touches nothing of it.
        let flawed = error { () throws(GuestMemoryError) in
            try GuestMemory.create(
                in: vm,
                regions: [
                    RegionRequest(
                        address: 0, size: 8 * pageBytes,
                        backing: .existing(descriptor: file.descriptor, offset: 16 * pageBytes, state: .private)),
                    RegionRequest(
                        address: 1 << 32, size: pageBytes,
                        backing: .existing(descriptor: -1, offset: 0, state: .private)),
                ], require: kernel.level)
        }
        #expect(flawed?.code == .badDescriptor)
        #expect(try file.map().probe(offset: Int(16 * pageBytes)) == .shared)
    }

    @Test(arguments: TestKernel.available)
    func mappingSizesFollowTheLedger(kernel: TestKernel) throws {
        let memory = try kernel.memory([
            RegionRequest(address: 0, size: 6 << 20), RegionRequest(address: (1 << 30) + pageBytes, size: 4 << 20),
        ])
        #expect(memory.mappingSize(at: 5) == 2 << 20)
        #expect(memory.mappingSize(at: (1 << 30) + pageBytes) == pageBytes, "address and offset do not agree")
        #expect(memory.mappingSize(at: 7 << 20) == nil)
        try memory.convert(GuestRange(address: 2 << 20, size: pageBytes), to: .shared)
        #expect(memory.mappingSize(at: (2 << 20) + 5 * pageBytes) == pageBytes)
        #expect(memory.mappingSize(at: 4 << 20) == 2 << 20)
        #expect(memory.statistics.mixedFrames2M == 1)
        try memory.close()
    }

    @Test(arguments: TestKernel.available)
    func adoptsAFileAndDescribedSlots(kernel: TestKernel) throws {
        let vm = try kernel.machine()
        let flags = try MemoryCapabilities.detect(vm).creationFlags(for: .shared).flags
        let file = try GuestMemfd.create(in: vm, size: 32 * pageBytes, flags: flags)
        let memory = try GuestMemory.create(
            in: vm,
            regions: [
                RegionRequest(
                    address: 0, size: 8 * pageBytes,
                    backing: .existing(descriptor: file.descriptor, offset: 0, state: .private)),
                RegionRequest(
                    address: 1 << 32, size: 8 * pageBytes,
                    backing: .existing(descriptor: file.descriptor, offset: 16 * pageBytes, state: .shared)),
            ], require: kernel.level)
        #expect(touch(memory, 0) == .private)
        #expect(touch(memory, 1 << 32) == .shared)
        #expect(memory.statistics.sharedBytes == 8 * pageBytes)
        #expect(memory.statistics.privateBytes == 8 * pageBytes)
        #expect(memory.files.count == 1, "one file, one ledger")
        try memory.convert(GuestRange(address: (1 << 32) + pageBytes, size: pageBytes), to: .private)
        #expect(touch(memory, (1 << 32) + pageBytes) == .private)
        #expect(memory.regionInfos[1].fileOffset == 16 * pageBytes)
        try memory.close()

        let overlapping = error { () throws(GuestMemoryError) in
            try GuestMemory.create(
                in: vm,
                regions: [0, 1 << 32].map {
                    RegionRequest(
                        address: $0, size: 8 * pageBytes,
                        backing: .existing(descriptor: file.descriptor, offset: 4 * pageBytes, state: .private))
                }, require: kernel.level)
        }
        #expect(overlapping?.code == .overlap)
        let tooLarge = error { () throws(GuestMemoryError) in
            try GuestMemory.create(
                in: vm,
                regions: [
                    RegionRequest(
                        address: 0, size: 33 * pageBytes,
                        backing: .existing(descriptor: file.descriptor, offset: 0, state: .private))
                ], require: kernel.level)
        }
        #expect(tooLarge?.code == .badDescriptor)
    }
}
