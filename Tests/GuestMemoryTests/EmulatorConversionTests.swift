import CGmem
import CTouch
import Testing

@testable import GuestMemory

private let page = Int(cgmem_page_size())
/// -errno, as the seam returns it.
private func failed(_ errno: LinuxErrno) -> Int { errno.result }

/// Both conversion calls, row by row.
@Suite struct EmulatorConversionTests {
    let untouched: UInt64 = 0xABCD

    // MARK: Dialect 1

    @Test func dialect1ChecksInOrder() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .one, mechanism: .automatic))
        let kernel = machine.kernel
        let size = UInt64(machine.size)
        for request in [CGMEM_KVM_GMEM_CONVERT_SHARED, CGMEM_KVM_GMEM_CONVERT_PRIVATE] {
            #expect(kernel.ioctl(machine.file, request, 0) == failed(.badAddress))
            #expect(kernel.ioctl(machine.vm, request, 0) == failed(.notTTY))
            #expect(kernel.ioctl(machine.device, request, 0) == failed(.invalid))
        }
        #expect(kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, 0) == failed(.notTTY))
        func ask(_ offset: UInt64, _ size: UInt64, _ errorOffset: UInt64 = 0) -> Int {
            var after = errorOffset
            let result = machine.convert(
                .shared, offset: offset, size: size, errorOffset: &after, on: machine.file)
            #expect(after == errorOffset)
            return result
        }
        // What the last failure left is looked at before anything else, size 0 before the rest.
        #expect(ask(0, 0, untouched) == failed(.invalid))
        #expect(ask(1, 0) == 0)
        #expect(ask(UInt64.max, 0) == 0)
        #expect(ask(UInt64.max - 4095, 8192) == failed(.invalid))
        #expect(ask(size, UInt64(page)) == failed(.invalid))
        #expect(ask(size - UInt64(page), UInt64(2 * page)) == failed(.invalid))
        #expect(ask(size + UInt64(page), UInt64(page)) == failed(.invalid))
        #expect(ask(1, UInt64(page)) == failed(.invalid))
        #expect(ask(0, UInt64(page) + 1) == failed(.invalid))
        #expect(!machine.states().contains(.shared))
        #expect(ask(0, size) == 0)
        #expect(ask(0, size) == 0)
        #expect(kernel.counters.conversions == 1)
        // Reserved words are not looked at, unlike in dialect 2b.
        var request = cgmem_kvm_gmem_convert()
        request.size = size
        request.reserved.4 = 1
        #expect(kernel.ioctl(machine.file, CGMEM_KVM_GMEM_CONVERT_PRIVATE, &request) == 0)
        #expect(!machine.states().contains(.shared))
    }

    @Test func dialect1AsksNoVMType() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .one, mechanism: .automatic), vmType: 0)
        #expect(machine.convert(.shared, at: 0) == 0 && machine.convert(.private, at: 0) == 0)
    }

    // MARK: Dialect 2b

    private func ask(
        _ machine: EmulatorMachine, _ change: (inout cgmem_kvm_memory_attributes2) -> Void
    ) -> Int {
        var request = cgmem_kvm_memory_attributes2()
        request.size = UInt64(page)
        request.error_offset = untouched
        change(&request)
        let result = machine.kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, &request)
        #expect(request.error_offset == untouched)
        return result
    }

    @Test func dialect2bChecksInOrder() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let kernel = machine.kernel
        let size = UInt64(machine.size)
        #expect(kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, 0) == failed(.badAddress))
        #expect(kernel.ioctl(machine.vm, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, 0) == failed(.notTTY))
        #expect(kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_RFC1, 0) == failed(.notTTY))
        #expect(kernel.ioctl(machine.file, CGMEM_KVM_GMEM_CONVERT_SHARED, 0) == failed(.notTTY))
        #expect(ask(machine) { $0.flags = 1 } == failed(.invalid))
        #expect(ask(machine) { $0.reserved.0 = 1 } == failed(.invalid))
        #expect(ask(machine) { $0.reserved.10 = 1 } == failed(.invalid))
        #expect(ask(machine) { $0.attributes = 1 } == failed(.invalid))
        #expect(ask(machine) { $0.attributes = 9 } == failed(.invalid))
        #expect(ask(machine) { $0.size = 0 } == failed(.invalid))
        #expect(
            ask(machine) {
                $0.offset = UInt64.max - 4095
                $0.size = 8192
            } == failed(.invalid))
        #expect(ask(machine) { $0.offset = 1 } == failed(.invalid))
        #expect(ask(machine) { $0.size += 1 } == failed(.invalid))
        #expect(ask(machine) { $0.offset = size } == failed(.invalid))
        #expect(ask(machine) { $0.size = size + UInt64(page) } == failed(.invalid))
        #expect(!machine.states().contains(.shared))
        // The input side of error_offset is not looked at in v8.
        #expect(ask(machine) { $0.size = size } == 0)
        #expect(ask(machine) { $0.size = size } == 0)
        #expect(kernel.counters.conversions == 1)
    }

    @Test func dialect2bNeedsPrivateMemory() throws {
        let machine = try EmulatorMachine(
            EmulatorSetup(dialect: .twoB, mechanism: .automatic), initially: .shared, vmType: 0)
        #expect(ask(machine) { _ in } == failed(.invalid))
        #expect(ask(machine) { $0.attributes = 8 } == failed(.invalid))
        #expect(ask(machine) { $0.size = 0 } == failed(.invalid))
        #expect(
            machine.kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, 0) == failed(.badAddress))
    }

    @Test func dialect2bCanBeSwitchedOff() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic)) {
            $0.inPlaceConversion = false
        }
        #expect(ask(machine) { _ in } == failed(.notTTY))
        #expect(machine.kernel.ioctl(machine.file, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, 0) == failed(.notTTY))
    }

    @Test func bothDialectsCanBeOnOneFile() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic)) {
            $0.dialects.insert(.convert)
        }
        #expect(machine.convert(.shared, at: 0) == 0)
        var request = cgmem_kvm_gmem_convert()
        request.size = UInt64(page)
        #expect(machine.kernel.ioctl(machine.file, CGMEM_KVM_GMEM_CONVERT_PRIVATE, &request) == 0)
        #expect(machine.kernel.state(ofPage: 0, descriptor: machine.file) == .private)
    }

    @Test func kernelsWithoutConversionKnowNoCall() throws {
        for preset in [EmulatedKernel.Configuration.linux6_18, .linux6_12] {
            let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic), vmType: 0) {
                $0 = preset
            }
            let file = Int32(machine.kernel.createFile(machine.vm, size: UInt64(page), flags: 0))
            defer { _ = machine.kernel.close(file) }
            for request in [
                CGMEM_KVM_GMEM_CONVERT_SHARED, CGMEM_KVM_GMEM_CONVERT_PRIVATE,
                CGMEM_KVM_SET_MEMORY_ATTRIBUTES2,
                CGMEM_KVM_SET_MEMORY_ATTRIBUTES2_RFC1, CGMEM_KVM_SET_MEMORY_ATTRIBUTES,
            ] {
                #expect(machine.kernel.ioctl(file, request, 0) == failed(.notTTY))
            }
        }
    }

    // MARK: Held pages

    @Test(arguments: EmulatorSetup.all) func aHeldPageStopsAllOfIt(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let kernel = machine.kernel
        let mapping = machine.map()
        #expect(mapping.write(9 * page, 9).signal == 0)
        // Bytes of pages 9 and 10, and a later page: the scan goes up and stops at the first.
        let later = kernel.pin(machine.file, offset: UInt64(12 * page), length: 1)
        let pin = try #require(kernel.pin(machine.file, offset: UInt64(9 * page + 100), length: UInt64(page)))
        var errorOffset: UInt64 = 0
        #expect(machine.convert(.private, at: 2, 12, errorOffset: &errorOffset) == failed(.again))
        #expect(errorOffset == UInt64(9 * page))
        #expect(!machine.states().contains(.private))
        #expect(mapping.read(9 * page).value == 9 && mapping.read(2 * page).signal == 0)
        #expect(kernel.counters.conversionsRefused == 1 && kernel.counters.conversions == 0)
        // Never below the request.
        errorOffset = 0
        #expect(machine.convert(.private, at: 10, 1, errorOffset: &errorOffset) == failed(.again))
        #expect(errorOffset == UInt64(10 * page))
        // What was left there by the last failure.
        let again = machine.convert(.private, at: 10, 1, errorOffset: &errorOffset)
        #expect(again == failed(setup.dialect == .one ? .invalid : .again))
        // Neighbours convert, and so does the page to shared.
        #expect(machine.convert(.private, at: 2, 7) == 0 && machine.convert(.private, at: 11) == 0)
        #expect(machine.convert(.shared, at: 0, 16) == 0)
        kernel.unpin(pin)
        kernel.unpin(pin)
        #expect(machine.convert(.private, at: 2, 10) == 0)
        #expect(machine.convert(.private, at: 12) == failed(.again))
        if let later { kernel.unpin(later) }
        #expect(machine.convert(.private, at: 12) == 0)
    }

    /// A page that is private already is asked in dialect 2b, which scans all of the range, not in 1.
    @Test(arguments: EmulatorSetup.all) func aHeldPrivatePage(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        #expect(machine.convert(.private, at: 3) == 0)
        #expect(machine.kernel.pin(machine.file, offset: UInt64(3 * page), length: 1) != nil)
        #expect(machine.convert(.private, at: 3) == 0)
        #expect(machine.convert(.private, at: 2, 3) == (setup.dialect == .one ? 0 : failed(.again)))
    }

    @Test(arguments: EmulatorSetup.all) func pinsAreChecked(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup)
        let kernel = machine.kernel
        #expect(kernel.pin(machine.vm, offset: 0, length: 1) == nil)
        #expect(kernel.pin(-1, offset: 0, length: 1) == nil)
        #expect(kernel.pin(machine.file, offset: 0, length: 0) == nil)
        #expect(kernel.pin(machine.file, offset: UInt64(machine.size), length: 1) == nil)
        #expect(kernel.pin(machine.file, offset: UInt64.max, length: 2) == nil)
        #expect(!kernel.holdTransiently(machine.file, offset: 0, length: 1, refusals: 0))
    }

    @Test(arguments: EmulatorSetup.all) func transientReferencesGoAway(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        #expect(
            machine.kernel.holdTransiently(machine.file, offset: UInt64(5 * page), length: 1, refusals: 3))
        for _ in 0..<3 {
            #expect(machine.convert(.private, at: 0) == 0 && machine.convert(.shared, at: 0) == 0)
            #expect(machine.convert(.private, at: 4, 4) == failed(.again))
        }
        #expect(machine.convert(.private, at: 4, 4) == 0)
    }

    @Test(arguments: EmulatorSetup.all) func spontaneousReferencesAreRepeatable(setup: EmulatorSetup) throws {
        func refusals(_ seed: UInt64) throws -> [Int] {
            let machine = try EmulatorMachine(setup, initially: .shared) { $0.seed = seed }
            machine.kernel.setSpontaneousReferences(oneIn: 4)
            return (0..<200).map { _ in
                var errorOffset: UInt64 = 0
                defer { _ = machine.convert(.shared, at: 2, 8) }
                if machine.convert(.private, at: 2, 8, errorOffset: &errorOffset) == 0 { return -1 }
                #expect(errorOffset >= UInt64(2 * page) && errorOffset < UInt64(10 * page))
                return Int(errorOffset)
            }
        }
        let first = try refusals(7)
        let count = first.filter { $0 >= 0 }.count
        #expect(count > 20 && count < 90)
        #expect(try refusals(7) == first)
        #expect(try refusals(8) != first)
    }

    // MARK: Faults by arrangement

    @Test(arguments: EmulatorSetup.all) func scriptedFaults(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup, initially: .shared)
        let kernel = machine.kernel
        let request =
            setup.dialect == .one ? CGMEM_KVM_GMEM_CONVERT_PRIVATE : CGMEM_KVM_SET_MEMORY_ATTRIBUTES2
        kernel.script(ScriptedFault(.ioctl(request), .noMemory, nth: 2, times: 2, errorOffset: 4096))
        kernel.script(ScriptedFault(.ioctl(request), .interrupted))
        var errorOffset: UInt64 = 0
        #expect(machine.convert(.private, at: 0, 1, errorOffset: &errorOffset) == 0)
        for _ in 0..<2 {
            errorOffset = 0
            #expect(machine.convert(.private, at: 1, 1, errorOffset: &errorOffset) == failed(.noMemory))
            #expect(errorOffset == 4096)
        }
        errorOffset = 0
        #expect(machine.convert(.private, at: 1, 1, errorOffset: &errorOffset) == failed(.interrupted))
        #expect(errorOffset == 0)
        #expect(kernel.state(ofPage: 1, descriptor: machine.file) == .shared)
        #expect(machine.convert(.private, at: 1) == 0)

        kernel.script(ScriptedFault(.open, .permissionDenied))
        #expect(unsafe kernel.open("/dev/kvm", CGMEM_O_RDWR) == failed(.permissionDenied))
        kernel.script(ScriptedFault(.mmap, .noMemory))
        #expect(machine.map().result == failed(.noMemory))
        kernel.script(ScriptedFault(.fallocate, .interrupted))
        #expect(kernel.fallocate(machine.file, 1, 0, Int64(page)) == failed(.interrupted))
        kernel.script(ScriptedFault(.dup, .tooManyOpenFiles))
        #expect(kernel.dup(machine.file) == failed(.tooManyOpenFiles))
        kernel.script(ScriptedFault(.sleep, .interrupted))
        #expect(kernel.sleep(nanoseconds: 1) == failed(.interrupted))
        kernel.script(ScriptedFault(.ioctl(CGMEM_KVM_CREATE_GUEST_MEMFD), .noMemory))
        kernel.removeScriptedFaults()
        let file = kernel.createFile(machine.vm, size: UInt64(page), flags: 0)
        #expect(file >= 0)
        _ = kernel.close(Int32(file))
    }
}
