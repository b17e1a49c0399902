import CGmem
import Foundation
import Testing

@testable import GuestMemory

/// What a failed conversion leaves, on the emulator, whose kernel can be made to fail. After each failure
/// the ledger, the emulated kernel and the outcome must tell the same story.
@Suite struct EmulatedConversionFailureTests {
    enum Spoken: CaseIterable {
        case dialect1, dialect2b

        var configuration: EmulatedKernel.Configuration { self == .dialect1 ? .dialect1 : .dialect2b }
        func request(to state: Shareability) -> UInt32 {
            if self == .dialect2b { return CGMEM_KVM_SET_MEMORY_ATTRIBUTES2 }
            return state == .shared ? CGMEM_KVM_GMEM_CONVERT_SHARED : CGMEM_KVM_GMEM_CONVERT_PRIVATE
        }
    }

    struct Guest {
        let kernel: EmulatedKernel
        let memory: GuestMemory

        init(_ spoken: Spoken, _ type: VMType = .softwareProtected) throws {
            kernel = try EmulatedKernel(spoken.configuration)
            let vm = try KVMDevice.open(on: kernel).createVirtualMachine(type)
            memory = try GuestMemory.create(
                in: vm,
                regions: (0..<3).map {
                    RegionRequest(address: $0 * 16 * pageBytes, size: 16 * pageBytes, slot: UInt32($0))
                },
                initially: .private, require: .emulated)
        }

        func descriptor(_ region: Int) -> Int32 { memory.regionInfos[region].descriptor }

        /// What the ledger and the kernel say of every page, which must agree.
        func states() -> [Shareability] {
            (0..<48).map { index in
                let ledger = memory.shareability(at: UInt64(index) * pageBytes)
                #expect(ledger == kernel.state(ofPage: index % 16, descriptor: descriptor(index / 16)))
                return ledger!
            }
        }
    }

    var quick: ConversionPolicy {
        var policy = ConversionPolicy.vcpu
        policy.deadline = 1_000_000
        return policy
    }

    @Test(arguments: Spoken.allCases)
    func aHeldPageIsNamedAndEverythingBeforeItUndone(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        try guest.memory.convert(pages(0, 48), to: .shared)
        try guest.memory.convert(pages(3, 2), to: .private)
        let before = guest.states()
        let pin = try #require(guest.kernel.pin(guest.descriptor(1), offset: 5 * pageBytes, length: pageBytes))
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 48), to: .private, policy: quick)
        }
        #expect(failure?.code == .held)
        #expect(failure?.range == pages(21))
        #expect(failure?.outcome == .failed)
        #expect(guest.states() == before)
        #expect(guest.memory.statistics.counters.pagesUndone == 14)
        guest.kernel.unpin(pin)
        #expect(try guest.memory.convert(pages(0, 48), to: .private, policy: quick) == .converted(pages: 46))
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func keepingReportsExactRuns(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        try guest.memory.convert(pages(0, 48), to: .shared)
        try guest.memory.convert(pages(3, 2), to: .private)
        let pin = try #require(guest.kernel.pin(guest.descriptor(2), offset: 0, length: 1))
        var policy = quick
        policy.onFailure = .keep
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 48), to: .private, policy: policy)
        }
        #expect(failure?.outcome == .partial([pages(0, 3), pages(5, 27)]))
        #expect(guest.states() == (0..<48).map { $0 < 32 ? .private : .shared })
        guest.kernel.unpin(pin)
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func convertingAroundLeavesOnlyWhatIsHeld(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        try guest.memory.convert(pages(0, 48), to: .shared)
        let pins = try [
            #require(guest.kernel.pin(guest.descriptor(0), offset: 0, length: pageBytes)),
            #require(guest.kernel.pin(guest.descriptor(1), offset: 7 * pageBytes, length: 2 * pageBytes)),
        ]
        var policy = quick
        policy.heldPages = .convertAround
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 48), to: .private, policy: policy)
        }
        #expect(failure?.code == .held)
        #expect(failure?.outcome == .partial([pages(1, 22), pages(25, 23)]))
        #expect(guest.states() == (0..<48).map { [0, 23, 24].contains($0) ? .shared : .private })
        for pin in pins { guest.kernel.unpin(pin) }
        #expect(try guest.memory.convert(pages(0, 48), to: .private, policy: policy) == .converted(pages: 3))
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func anUndoThatFailsPoisons(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        // The third region fails to become shared, and then the second fails to go back.
        guest.kernel.script(ScriptedFault(.ioctl(spoken.request(to: .shared)), .io, nth: 3))
        guest.kernel.script(ScriptedFault(.ioctl(spoken.request(to: .private)), .io))
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 48), to: .shared, policy: quick)
        }
        #expect(failure?.outcome == .poisoned([pages(0, 32)]))
        #expect(guest.states() == (0..<48).map { $0 < 32 ? .shared : .private })
        let later = error { () throws(GuestMemoryError) in try guest.memory.convert(pages(40), to: .shared) }
        #expect(later?.code == .poisoned)
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func lackOfMemoryIsReportedWithNothingChanged(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        guest.kernel.script(ScriptedFault(.ioctl(spoken.request(to: .shared)), .noMemory, times: 3, errorOffset: 5))
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 4), to: .shared, policy: quick)
        }
        #expect(failure?.code == .noMemory)
        #expect(failure?.outcome == .failed)
        #expect(guest.states().allSatisfy { $0 == .private })
        #expect(guest.memory.statistics.counters.noMemoryAnswers == 3)
        try guest.memory.close()
    }

    /// Dialect 1's rollback may fail silently: after ENOMEM, whatever came next, all of the run is put back.
    @Test(arguments: [LinuxErrno.noMemory, .io])
    func dialect1IsPutRightAfterLackOfMemory(last: LinuxErrno) throws {
        let guest = try Guest(.dialect1)
        // The kernel says ENOMEM, and its rollback left pages 2 and 3 shared: as if behind our back.
        var request = cgmem_kvm_gmem_convert()
        request.offset = 2 * pageBytes
        request.size = 2 * pageBytes
        #expect(guest.kernel.ioctl(guest.descriptor(0), CGMEM_KVM_GMEM_CONVERT_SHARED, &request) == 0)
        guest.kernel.script(ScriptedFault(.ioctl(CGMEM_KVM_GMEM_CONVERT_SHARED), .noMemory, times: 2))
        guest.kernel.script(ScriptedFault(.ioctl(CGMEM_KVM_GMEM_CONVERT_SHARED), last))
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 8), to: .shared, policy: quick)
        }
        #expect(failure?.errno == last)
        #expect(failure?.outcome == .failed)
        #expect(guest.states().allSatisfy { $0 == .private })
        // And where that cannot be done either, nobody is told that nothing changed.
        guest.kernel.script(ScriptedFault(.ioctl(CGMEM_KVM_GMEM_CONVERT_SHARED), .noMemory, times: 3))
        guest.kernel.script(ScriptedFault(.ioctl(CGMEM_KVM_GMEM_CONVERT_PRIVATE), .io))
        let worse = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 8), to: .shared, policy: quick)
        }
        #expect(worse?.outcome == .poisoned([pages(0, 8)]))
        try guest.memory.close()
    }

    /// While a request to shared may still be undone, nobody gets to touch its pages.
    @Test(arguments: Spoken.allCases)
    func nobodyTouchesWhatMayBeUndone(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        guest.kernel.script(ScriptedFault(.ioctl(spoken.request(to: .shared)), .noMemory, nth: 2, times: 3))
        var policy = quick
        nonisolated(unsafe) var tried: GuestMemoryError?
        policy.onNoMemory = { _ in
            let impatient = ConversionPolicy(deadline: 0)
            // The first region is shared by now, the second is not yet.
            let other = Thread {
                unsafe tried = error { () throws(GuestMemoryError) in
                    _ = try guest.memory.lease(pages(0), label: "early", policy: impatient)
                }
            }
            other.start()
            while !other.isFinished { sched_yield() }
            return true
        }
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 32), to: .shared, policy: policy)
        }
        #expect(failure?.outcome == .failed)
        #expect(unsafe tried?.code == .held)
        #expect(guest.states().allSatisfy { $0 == .private })
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func convertingAroundSparesLeases(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        try guest.memory.convert(pages(0, 48), to: .shared)
        // Unaligned, across a region's border: all three pages stay.
        let lease = try guest.memory.lease(
            GuestRange(address: 15 * pageBytes - 3, size: pageBytes + 6), label: "ring")
        var policy = quick
        policy.heldPages = .convertAround
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 48), to: .private, policy: policy)
        }
        #expect(failure?.code == .held)
        #expect(failure?.outcome == .partial([pages(0, 14), pages(17, 31)]))
        #expect(guest.states() == (0..<48).map { (14..<17).contains($0) ? .shared : .private })
        lease.release()
        #expect(try guest.memory.convert(pages(0, 48), to: .private, policy: policy) == .converted(pages: 3))
        try guest.memory.close()
    }

    /// What a payload's pages are after one of them could not be made private again.
    @Test(arguments: Spoken.allCases)
    func aPayloadsHeldPageKeepsNoOtherShared(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        var plan = PopulationPlan()
        for index in [2, 8, 20] { plan.add([1, 2, 3], at: UInt64(index) * pageBytes) }
        nonisolated(unsafe) var pin: EmulatedKernel.Pin?
        var options = PopulationOptions()
        options.policy = quick
        options.progress = { _, _ in
            if unsafe pin == nil {
                unsafe pin = guest.kernel.pin(guest.descriptor(0), offset: 8 * pageBytes, length: 1)
            }
            return true
        }
        let failure = error { () throws(GuestMemoryError) in try guest.memory.populate(plan, options) }
        #expect(failure?.code == .held)
        #expect(failure?.outcome == .partial([pages(8)]))
        #expect(guest.states() == (0..<48).map { $0 == 8 ? .shared : .private })
        unsafe guest.kernel.unpin(pin!)
        try guest.memory.close()
    }

    @Test(arguments: Spoken.allCases)
    func spuriousRefusalsNeverReachTheCaller(spoken: Spoken) throws {
        let guest = try Guest(spoken)
        guest.kernel.setSpontaneousReferences(oneIn: 3)
        for _ in 0..<2_000 {
            try guest.memory.convert(pages(10, 20), to: .shared, policy: .vcpu)
            try guest.memory.convert(pages(10, 20), to: .private, policy: .vcpu)
        }
        #expect(guest.memory.statistics.counters.busyAnswers > 100)
        #expect(guest.memory.statistics.counters.failed == 0)
        try guest.memory.close()
    }

    @Test func aKickLeavesTheWaitAtOnceWithNothingChanged() throws {
        let guest = try Guest(.dialect2b)
        try guest.memory.convert(pages(0, 8), to: .shared)
        let pin = try #require(guest.kernel.pin(guest.descriptor(0), offset: 0, length: pageBytes))
        nonisolated(unsafe) var immediateExit = false
        var policy = ConversionPolicy.vcpu
        policy.isCancelled = { unsafe immediateExit }
        policy.onBusy = { _ in
            unsafe immediateExit = true
            return .backOff
        }
        let started = guest.kernel.now()
        let failure = error { () throws(GuestMemoryError) in
            try guest.memory.convert(pages(0, 8), to: .private, policy: policy)
        }
        #expect(failure?.code == .cancelled)
        #expect(failure?.outcome == .failed)
        #expect(guest.kernel.now() - started < 1_000_000)
        #expect(guest.states().prefix(8).allSatisfy { $0 == .shared })
        guest.kernel.unpin(pin)
        try guest.memory.close()
    }
}
