import CGmem
import CTouch
import Glibc
import Testing

@testable import GuestMemory

private let page = Int(cgmem_page_size())
/// -errno, as the seam returns it.
private func failed(_ errno: LinuxErrno) -> Int { errno.result }

/// What the host may touch, whatever the dialect and the mechanism.
@Suite struct EmulatorMemoryTests {
    @Test(arguments: EmulatorSetup.all) func privatePagesRefuseTheHost(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup)
        let before = machine.map()
        #expect(before.result > 0)
        #expect(before.isRefused(0) && before.isRefused(5 * page + 77) && before.isRefused(16 * page - 1))
        #expect(machine.convert(.shared, at: 4, 2) == 0)
        let after = machine.map()
        for mapping in [before, after] {
            #expect(mapping.isRefused(4 * page - 1))
            #expect(mapping.write(4 * page, 7).signal == 0)
            #expect(mapping.read(6 * page - 1).signal == 0)
            #expect(mapping.isRefused(6 * page))
        }
        #expect(before.read(4 * page).value == 7 && after.read(4 * page).value == 7)
        #expect(machine.convert(.private, at: 4) == 0)
        for mapping in [before, after] {
            #expect(mapping.isRefused(4 * page))
            #expect(mapping.read(5 * page).signal == 0)
        }
    }

    @Test(arguments: EmulatorSetup.all) func contentsSurviveConversion(setup: EmulatorSetup) throws {
        for initially in Shareability.allCases {
            let machine = try EmulatorMachine(setup, pages: 1100, initially: initially)
            let mapping = machine.map()
            for index in stride(from: 0, to: 1100, by: 7) {
                machine.guestWrite(index * page + 5, UInt8(index % 251))
            }
            for round in 0..<3 {
                #expect(machine.convert(.shared, at: 0, 1100) == 0)
                for index in stride(from: 0, to: 1100, by: 7) {
                    #expect(mapping.read(index * page + 5).value == UInt8(index % 251))
                }
                #expect(machine.convert(.private, at: 3 * round, 1100 - 3 * round) == 0)
                for index in stride(from: 0, to: 1100, by: 7) {
                    #expect(machine.guestByte(index * page + 5) == UInt8(index % 251))
                }
            }
        }
    }

    /// Random conversions on several mappings against a plain list of states.
    @Test(arguments: EmulatorSetup.all) func statesMatchAModel(setup: EmulatorSetup) throws {
        let seed: UInt64 = 42
        var random = SeededRandom(seed: seed)
        let pages = 1500
        let machine = try EmulatorMachine(setup, pages: pages)
        var model = Array(repeating: Shareability.private, count: pages)
        var mappings = [machine.map(), machine.map(700, 100)]
        for step in 0..<300 {
            let first = Int(random.next() % UInt64(pages))
            let longest = random.next() % 4 == 0 ? pages : 20
            let count = min(pages - first, 1 + Int(random.next() % UInt64(longest)))
            let state: Shareability = random.next() % 2 == 0 ? .shared : .private
            #expect(machine.convert(state, at: first, count) == 0)
            for index in first..<first + count { model[index] = state }
            if step % 50 == 20 { mappings[1] = machine.map(first, count) }
            for _ in 0..<20 {
                let index = Int(random.next() % UInt64(pages))
                let isRefused = mappings[0].read(index * page).signal != 0
                #expect(isRefused == (model[index] == .private), "seed \(seed) step \(step) page \(index)")
            }
        }
        #expect(machine.states() == model)
        for index in 0..<pages {
            #expect(
                (mappings[0].read(index * page).signal == 0) == (model[index] == .shared), "page \(index)")
        }
    }

    @Test(arguments: EmulatorSetup.all) func callsOfTheRealKernelGetEFAULT(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let mapping = machine.map()
        #expect(machine.convert(.private, at: 3) == 0)
        for advice in [CGMEM_MADV_POPULATE_READ, CGMEM_MADV_POPULATE_WRITE] {
            #expect(mapping.advise(advice, 2, 1) == 0)
            #expect(mapping.advise(advice, 3, 1) == failed(.badAddress))
            #expect(mapping.advise(advice, 0, 8) == failed(.badAddress))
            #expect(mapping.advise(advice, 4) == 0)
        }
        let linux = LinuxSystemCalls.shared
        let zero = Int32(unsafe linux.open("/proc/self/stat", CGMEM_O_RDONLY | CGMEM_O_CLOEXEC))
        defer { _ = linux.close(zero) }
        func readInto(_ index: Int) -> Int {
            unsafe linux.pread(
                zero, UnsafeMutableRawPointer(bitPattern: mapping.result + index * page)!, 10, 0)
        }
        #expect(readInto(3) == failed(.badAddress))
        #expect(readInto(4) == 10)
    }

    @Test(arguments: EmulatorSetup.all) func adviceOnMappings(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let mapping = machine.map()
        for index in 0..<16 { #expect(mapping.write(index * page, UInt8(index + 1)).signal == 0) }
        #expect(machine.convert(.private, at: 8) == 0)
        // Keeps the contents, and shared pages stay usable.
        #expect(mapping.advise(CGMEM_MADV_DONTNEED) == 0)
        #expect(
            mapping.read(7 * page).value == 8 && mapping.isRefused(8 * page)
                && mapping.read(9 * page).value == 10)
        #expect(machine.guestByte(8 * page) == 9)
        // Punches.
        #expect(mapping.advise(CGMEM_MADV_REMOVE, 7, 3) == 0)
        let left = mapping.read(7 * page)
        #expect(left.signal == 0 && left.value == 0)
        #expect(mapping.isRefused(8 * page) && machine.guestByte(8 * page) == 0)
        #expect(mapping.read(10 * page).value == 11)
        #expect(mapping.advise(CGMEM_MADV_DONTFORK) == 0 && mapping.advise(CGMEM_MADV_DONTDUMP) == 0)
        #expect(mapping.advise(CGMEM_MADV_WIPEONFORK) == failed(.invalid))
        #expect(
            machine.kernel.madvise(UInt(mapping.result) + 1, page, CGMEM_MADV_DONTNEED) == failed(.invalid))
        #expect(machine.convert(.private, at: 0, 16) == 0 && machine.convert(.shared, at: 0, 16) == 0)
        #expect(mapping.read(15 * page).value == 16)
    }

    @Test(arguments: EmulatorSetup.all) func punchedHoles(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let kernel = machine.kernel
        let mapping = machine.map()
        for index in 0..<16 { #expect(mapping.write(index * page, 9).signal == 0) }
        #expect(machine.convert(.private, at: 4, 4) == 0)
        let states = machine.states()
        #expect(kernel.fallocate(machine.file, 3, Int64(2 * page), Int64(4 * page)) == 0)
        #expect(machine.states() == states)
        for (index, value) in [(1, 9), (2, 0), (3, 0), (8, 9)] as [(Int, UInt8)] {
            #expect(mapping.read(index * page).signal == 0 && mapping.read(index * page).value == value)
        }
        for (index, value) in [(4, 0), (5, 0), (6, 9), (7, 9)] as [(Int, UInt8)] {
            #expect(mapping.isRefused(index * page) && machine.guestByte(index * page) == value)
        }
        #expect(machine.convert(.shared, at: 4, 4) == 0)
        #expect(mapping.read(5 * page).value == 0 && mapping.read(6 * page).value == 9)
    }

    @Test(arguments: EmulatorSetup.all) func mappingsOfParts(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let kernel = machine.kernel
        let mapping = machine.map()
        let high = machine.map(8, 16)
        for index in 0..<16 { #expect(mapping.write(index * page, UInt8(index)).signal == 0) }
        // Past the end of the file: mapped, and SIGBUS.
        #expect(high.read(7 * page).value == 15 && high.isRefused(8 * page))
        #expect(kernel.munmap(UInt(mapping.result + 4 * page), 8 * page) == 0)
        #expect(mapping.read(5 * page).signal == 11)
        #expect(machine.convert(.private, at: 0, 16) == 0)
        #expect(mapping.isRefused(3 * page) && mapping.isRefused(12 * page) && high.isRefused(0))
        #expect(machine.convert(.shared, at: 3, 10) == 0)
        #expect(mapping.read(3 * page).value == 3 && mapping.read(12 * page).value == 12)
        #expect(mapping.isRefused(13 * page) && high.read(4 * page).value == 12 && high.isRefused(5 * page))
        // Something else over a part of it: a conversion does not touch it any more.
        let over = UInt(mapping.result + 12 * page)
        let anonymous = CGMEM_MAP_PRIVATE | CGMEM_MAP_ANONYMOUS | CGMEM_MAP_FIXED
        #expect(kernel.mmap(over, page, 3, anonymous, -1, 0) == Int(over))
        #expect(mapping.write(12 * page, 99).signal == 0)
        #expect(machine.convert(.private, at: 0, 16) == 0)
        #expect(mapping.read(12 * page).value == 99)
        // And the file over that again.
        #expect(kernel.mmap(over, page, 3, CGMEM_MAP_SHARED | CGMEM_MAP_FIXED, machine.file, 0) == Int(over))
        #expect(mapping.isRefused(12 * page))
        #expect(machine.convert(.shared, at: 0) == 0)
        #expect(mapping.read(12 * page).value == 0 && mapping.read(12 * page).signal == 0)
    }

    @Test(arguments: EmulatorSetup.all) func readOnlyMappings(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup)
        let mapping = machine.map(protection: CGMEM_PROT_READ)
        #expect(mapping.read(0).signal == SIGBUS)
        machine.guestWrite(0, 3)
        #expect(machine.convert(.shared, at: 0) == 0)
        #expect(mapping.read(0).value == 3 && mapping.write(0, 1).signal == 11)
    }

    /// A mapping that is reserved with PROT_NONE and opened later.
    @Test(arguments: EmulatorSetup.all) func mappingsThatOpenLater(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let mapping = machine.map(protection: CGMEM_PROT_NONE)
        machine.guestWrite(4 * page, 6)
        #expect(machine.convert(.private, at: 2) == 0 && machine.convert(.private, at: 8) == 0)
        #expect(machine.kernel.mprotect(UInt(mapping.result), 16 * page, 3) == 0)
        #expect(machine.kernel.mprotect(UInt(mapping.result), page, 7) == failed(.permissionDenied))
        #expect(mapping.isRefused(2 * page) && mapping.isRefused(8 * page))
        for index in [0, 3, 4, 7, 9] { #expect(mapping.read(index * page).signal == 0) }
        #expect(mapping.read(4 * page).value == 6)
        #expect(machine.convert(.shared, at: 2) == 0 && mapping.write(2 * page, 1).signal == 0)
    }

    /// Locked memory is entered into the page table by mmap, and wants its own call to leave it.
    @Test func lockedMemory() async {
        await #expect(processExitsWith: .success) {
            let mechanisms = EmulatorSetup.mechanisms
            if mlockall(2) != 0 { return }  // MCL_FUTURE, which RLIMIT_MEMLOCK may forbid
            for mechanism in mechanisms {
                let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: mechanism))
                let mapping = machine.map()
                try requireInChild(1, mapping.isRefused(0) && mapping.isRefused(15 * page))
                try requireInChild(2, machine.convert(.shared, at: 3, 2) == 0)
                try requireInChild(3, mapping.write(3 * page, 4).signal == 0)
                try requireInChild(4, machine.convert(.private, at: 3) == 0)
                try requireInChild(5, mapping.isRefused(3 * page) && mapping.read(4 * page).signal == 0)
                try requireInChild(6, machine.guestByte(3 * page) == 4)
            }
        }
    }

    /// One thread converts, others touch: neighbours always work, and the page shows its own bytes or is
    /// refused.
    @Test(arguments: EmulatorSetup.all) func hammered(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, pages: 600, initially: .shared)
        let mapping = machine.map()
        for index in 0..<600 { #expect(mapping.write(index * page, 77).signal == 0) }
        let hammers = (0..<2).map { number in
            EmulatorHammer(
                mapping, pages: number == 0 ? [299, 320, 200, 599] : [300, 319, 310],
                mayBeRefused: number == 1)
        }
        for hammer in hammers { hammer.start() }
        for round in 0..<800 {
            let count = round % 3 == 0 ? 20 : 1
            #expect(machine.convert(.private, at: 300, count) == 0)
            #expect(mapping.isRefused(300 * page))
            #expect(machine.convert(.shared, at: 300, count) == 0)
        }
        for hammer in hammers {
            hammer.stop()
            #expect(hammer.touches > 0 && hammer.wrongValues == 0 && hammer.wrongRefusals == 0)
        }
    }

    /// The guard is put up around pages that others use, and taken away, again and again.
    @Test(arguments: EmulatorSetup.all) func hammeredWhileTheGuardMoves(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, pages: 2048, initially: .shared)
        let mapping = machine.map()
        for index in 0..<2048 { #expect(mapping.write(index * page, 77).signal == 0) }
        let hammer = EmulatorHammer(mapping, pages: [511, 512, 520, 551, 552, 600], mayBeRefused: false)
        hammer.start()
        for round in 0..<300 {
            let first = round % 2 == 0 ? 490 : 513
            #expect(machine.convert(.private, at: first) == 0)
            #expect(machine.convert(.private, at: 550) == 0)
            #expect(machine.convert(.private, at: 700 + round % 7) == 0)
            #expect(mapping.isRefused(first * page) && mapping.isRefused(550 * page))
            #expect(machine.convert(.shared, at: 480, 300) == 0)
        }
        hammer.stop()
        #expect(hammer.touches > 0 && hammer.wrongValues == 0 && hammer.wrongRefusals == 0)
    }

    // In a process of its own: at the limit nobody else could map anything.
    @Test func theMapLimitHasItsOwnAnswer() async {
        await #expect(processExitsWith: .success) {
            let pages = 140_000
            let machine = try EmulatorMachine(
                EmulatorSetup(dialect: .twoB, mechanism: .holes), pages: pages, initially: .shared)
            let mapping = machine.map()
            // A second mapping has to be put right when the first cannot be changed, or the reverse.
            let other = machine.map()
            var result = 0
            var index = 0
            while index < pages && result == 0 {
                result = machine.convert(.private, at: index)
                index += 2
            }
            let last = index - 2
            try requireInChild(1, result == failed(.noMemory) && machine.kernel.counters.mapLimitHits == 1)
            try requireInChild(2, machine.kernel.state(ofPage: last, descriptor: machine.file) == .shared)
            for mapping in [mapping, other] {
                try requireInChild(
                    3, mapping.read(last * page).signal == 0 && mapping.isRefused((last - 2) * page))
            }
            // To shared needs room too, and what stays private stays out of reach.
            if machine.convert(.shared, at: last - 2) != 0 {
                try requireInChild(
                    6, mapping.isRefused((last - 2) * page) && other.isRefused((last - 2) * page))
            }
            // With a little room again, it goes on.
            try requireInChild(4, machine.kernel.munmap(UInt(mapping.result), 100 * page) == 0)
            try requireInChild(5, machine.convert(.private, at: 0, last) == 0)
            try requireInChild(6, machine.convert(.private, at: last) == 0)
        }
    }

    @Test func fragmentationDoesNotMeetTheMapLimit() throws {
        guard EmulatorSetup.mechanisms.contains(.userfaultfd) else { return }
        let pages = 140_000
        let machine = try EmulatorMachine(
            EmulatorSetup(dialect: .twoB, mechanism: .userfaultfd), pages: pages)
        let mapping = machine.map()
        for index in stride(from: 0, to: pages, by: 2) {
            let result = machine.convert(.shared, at: index)
            if result != 0 {
                Issue.record("page \(index): \(result)")
                break
            }
        }
        #expect(mapping.read(page * (pages - 2)).signal == 0 && mapping.isRefused(page * (pages - 1)))
        #expect(mapping.read(0).signal == 0 && mapping.isRefused(page))
    }

    @Test(arguments: EmulatorSetup.mechanisms) func aTerabyteCostsNothing(mechanism: EmulatedKernel.Mechanism)
        throws
    {
        for initially in Shareability.allCases {
            let machine = try EmulatorMachine(
                EmulatorSetup(dialect: .twoB, mechanism: mechanism), pages: 1 << 28, initially: initially)
            let mapping = machine.map()
            #expect(mapping.result > 0)
            #expect(machine.convert(initially.opposite, at: 1 << 27) == 0)
            let middle = page << 27
            #expect((mapping.read(middle).signal == 0) == (initially == .private))
            #expect((mapping.read(middle + page).signal == 0) == (initially == .shared))
            #expect(machine.convert(.shared, at: 0, 1 << 28) == 0)
            #expect(mapping.read(middle - page).signal == 0 && mapping.read(middle).signal == 0)
            #expect(machine.convert(.private, at: 0, 1 << 28) == 0)
            #expect(mapping.isRefused(0) && mapping.isRefused(middle))
        }
    }
}

/// Touches pages until it is told to stop, and counts what must not be.
@safe
final class EmulatorHammer: @unchecked Sendable {
    private let mapping: EmulatorMapping
    private let pages: [Int]
    private let mayBeRefused: Bool
    private let thread = UnsafeMutablePointer<cgmem_thread>.allocate(capacity: 1)
    private let stopping = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    private(set) var touches = 0
    private(set) var wrongValues = 0
    private(set) var wrongRefusals = 0

    init(_ mapping: EmulatorMapping, pages: [Int], mayBeRefused: Bool) {
        self.mapping = mapping
        self.pages = pages
        self.mayBeRefused = mayBeRefused
        unsafe stopping.initialize(to: 0)
    }

    deinit {
        unsafe thread.deallocate()
        unsafe stopping.deallocate()
    }

    func start() {
        let me = unsafe Unmanaged.passUnretained(self).toOpaque()
        _ = unsafe cgmem_thread_start(
            thread, { unsafe Unmanaged<EmulatorHammer>.fromOpaque($0!).takeUnretainedValue().run() }, me)
    }

    func stop() {
        unsafe cgmem_add32(stopping, 1)
        unsafe cgmem_thread_join(thread)
    }

    private func run() {
        while unsafe cgmem_load32(stopping) == 0 {
            for index in pages {
                let touch = touches % 2 == 0 ? mapping.read(index * page) : mapping.write(index * page, 77)
                touches += 1
                if touch.signal != 0 {
                    if !mayBeRefused || touch.signal != SIGBUS { wrongRefusals += 1 }
                } else if touches % 2 == 1 && touch.value != 77 {
                    wrongValues += 1
                }
            }
        }
    }
}
