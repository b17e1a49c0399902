import CGmem
import Foundation
import Testing

@testable import GuestMemory

/// Whatever is handed in: an error with a stable code and a sentence, nothing changed, nothing leaked.
@Suite struct BadInputTests {
    func expect(
        _ code: GuestMemoryError.Code, naming words: String..., from call: () throws(GuestMemoryError) -> Void,
        _ location: SourceLocation = #_sourceLocation
    ) {
        let found = error(call)
        #expect(found?.code == code, sourceLocation: location)
        for word in words {
            #expect(
                found?.description.contains(word) == true, "\(found?.description ?? "no error")",
                sourceLocation: location)
        }
        #expect((found?.message.count ?? 0) > 10, sourceLocation: location)
    }

    @Test func noDeviceNoPermissionNotKVM() throws {
        expect(.notFound, naming: "/dev/nonexistent", "ENOENT") { () throws(GuestMemoryError) in
            _ = try KVMDevice.open("/dev/nonexistent")
        }
        expect(.badDescriptor, naming: "/dev/null", "KVM_GET_API_VERSION") { () throws(GuestMemoryError) in
            _ = try KVMDevice.open("/dev/null")
        }
        expect(.noPermission, naming: "group", "EACCES") { () throws(GuestMemoryError) in
            _ = try KVMDevice.open(on: OpenRefusing(.permissionDenied))
        }
        expect(.notFound, naming: "ENXIO") { () throws(GuestMemoryError) in
            _ = try KVMDevice.open(on: OpenRefusing(.noSuchDeviceOrAddress))
        }
    }

    @Test func descriptorsThatAreSomethingElse() throws {
        let kernel = try EmulatedKernel(.dialect2b)
        let device = try KVMDevice.open(on: kernel)
        let vm = try device.createVirtualMachine(.softwareProtected)
        let file = unsafe open("/etc/passwd", O_RDONLY)
        defer { close(file) }
        for descriptor in [-1, 99_999, file] {
            expect(.badDescriptor) { () throws(GuestMemoryError) in
                _ = try VirtualMachine(borrowing: descriptor, type: .default, on: kernel)
            }
            expect(.badDescriptor) { () throws(GuestMemoryError) in
                _ = try GuestMemory.create(
                    in: vm,
                    regions: [
                        RegionRequest(
                            address: 0, size: pageBytes,
                            backing: .existing(descriptor: descriptor, offset: 0, state: .private))
                    ], require: .emulated)
            }
        }
        expect(.badDescriptor, naming: "/dev/kvm itself") { () throws(GuestMemoryError) in
            _ = try VirtualMachine(borrowing: device.descriptor, type: .default, on: kernel)
        }
        let borrowed = try VirtualMachine(borrowing: vm.descriptor, type: .softwareProtected, on: kernel)
        #expect(borrowed.isBorrowed)
        #expect(try MemoryCapabilities.detect(borrowed).usableDialects == [.attributes2])
    }

    @Test(arguments: TestKernel.available)
    func badRegions(kernel: TestKernel) throws {
        let vm = try kernel.machine()
        let bad: [(GuestMemoryError.Code, [RegionRequest])] = [
            (.badSize, []),
            (.badSize, [RegionRequest(address: 0, size: 0)]),
            (.badSize, [RegionRequest(address: 0, size: pageBytes + 1)]),
            (.badRange, [RegionRequest(address: 12, size: pageBytes)]),
            (.badRange, [RegionRequest(address: 0 &- pageBytes, size: 2 * pageBytes)]),
            (.badRange, [RegionRequest(address: 0, size: 1 << 63)]),
            (
                .overlap,
                [RegionRequest(address: 0, size: 2 * pageBytes), RegionRequest(address: pageBytes, size: pageBytes)]
            ),
            (
                .overlap,
                [RegionRequest(address: pageBytes, size: pageBytes), RegionRequest(address: 0, size: 2 * pageBytes)]
            ),
            (
                .overlap,
                [
                    RegionRequest(address: 0, size: pageBytes, slot: 3),
                    RegionRequest(address: pageBytes, size: pageBytes, slot: 3),
                ]
            ),
            (
                .badRange,
                [
                    RegionRequest(
                        address: 0, size: pageBytes, backing: .existing(descriptor: 0, offset: 5, state: .shared))
                ]
            ),
        ]
        for (code, regions) in bad {
            expect(code) { () throws(GuestMemoryError) in
                _ = try GuestMemory.create(in: vm, regions: regions, require: kernel.level)
            }
        }
        // The kernel's own refusal, after some slots were bound: they are gone again.
        let memory = try GuestMemory.create(
            in: vm, regions: [RegionRequest(address: 8 * pageBytes, size: pageBytes, slot: 9)], require: kernel.level)
        expect(.overlap, naming: "KVM_SET_USER_MEMORY_REGION2") { () throws(GuestMemoryError) in
            _ = try GuestMemory.create(
                in: vm,
                regions: [
                    RegionRequest(address: 0, size: pageBytes, slot: 4),
                    RegionRequest(address: 8 * pageBytes, size: pageBytes, slot: 5),
                ], require: kernel.level)
        }
        let again = try GuestMemory.create(
            in: vm, regions: [RegionRequest(address: 0, size: pageBytes, slot: 4)], require: kernel.level)
        try again.close()
        try memory.close()
    }

    @Test func levelsAreNeverConfused() throws {
        let vm = try TestKernel.emulated2b.machine()
        for level in [PrivacyLevel.process, .kernel] {
            expect(.levelTooWeak, naming: "require: .emulated") { () throws(GuestMemoryError) in
                _ = try GuestMemory.create(
                    in: vm, regions: [RegionRequest(address: 0, size: pageBytes)], require: level)
            }
        }
    }

    @Test(arguments: [EmulatedKernel.Configuration.linux6_12, .linux6_18])
    func kernelsWithoutTheCalls(configuration: EmulatedKernel.Configuration) throws {
        let device = try KVMDevice.open(on: try EmulatedKernel(configuration))
        for type in device.vmTypes where type == .default || type == .softwareProtected {
            let vm = try device.createVirtualMachine(type)
            expect(.unsupported, naming: "\(type)") { () throws(GuestMemoryError) in
                _ = try GuestMemory.create(
                    in: vm, regions: [RegionRequest(address: 0, size: pageBytes)], require: .emulated)
            }
        }
        expect(.unsupported, naming: "TDX") { () throws(GuestMemoryError) in
            _ = try device.createVirtualMachine(.tdx)
        }
    }

    /// Every way a creation can fail, on a kernel that fails one call after the other.
    @Test(arguments: [EmulatedKernel.Configuration.dialect1, .dialect2b])
    func creationThatFailsHalfWayLeaksNothing(configuration: EmulatedKernel.Configuration) throws {
        let faults: [(ScriptedFault.Call, LinuxErrno)] = [
            (.ioctl(CGMEM_KVM_CREATE_GUEST_MEMFD), .tooManyOpenFiles),
            (.ioctl(CGMEM_KVM_CREATE_GUEST_MEMFD), .noMemory),
            (.mmap, .noMemory), (.ioctl(CGMEM_KVM_SET_USER_MEMORY_REGION2), .invalid),
        ]
        let kernel = try EmulatedKernel(configuration)
        let counting = CountingKernel(kernel)
        let vm = try KVMDevice.open(on: counting).createVirtualMachine(.softwareProtected)
        let regions = (0..<3).map { RegionRequest(address: $0 * pageBytes, size: pageBytes, slot: UInt32($0)) }
        let before = counting.open
        var failures = 0
        for (call, errno) in faults {
            for nth in 1...12 {
                kernel.script(ScriptedFault(call, errno, nth: nth))
                let memory = try? GuestMemory.create(in: vm, regions: regions, require: .emulated)
                if memory == nil { failures += 1 }
                try memory?.close()
                kernel.removeScriptedFaults()
            }
        }
        #expect(failures > 12)
        #expect(counting.open == before)
        #expect(counting.mistakes.isEmpty)
    }

    @Test(arguments: TestKernel.available)
    func aClosedMemoryHoldsNothing(kernel: TestKernel) throws {
        let counting = CountingKernel(try kernel.machine().system)
        let device = try KVMDevice.open(on: counting)
        let vm = try device.createVirtualMachine(try kernel.machine().type)
        let regions = [RegionRequest(address: 0, size: 16 * pageBytes, slot: 0)]
        let before = counting.open
        for _ in 0..<20 {
            let memory = try GuestMemory.create(in: vm, regions: regions, require: kernel.level)
            try memory.populate(PopulationPlan([1, 2, 3], at: 0))
            try memory.convert(pages(5), to: .shared)
            try memory.lease(pages(5), label: "q0").release()
            try memory.close()
            #expect(counting.open == before)
            // One that nobody closes goes by itself.
            _ = try GuestMemory.create(in: vm, regions: regions, require: kernel.level)
            #expect(counting.open == before)
        }
        #expect(counting.mistakes.isEmpty, "\(counting.mistakes)")
        withExtendedLifetime(device) {}
    }
}

private final class OpenRefusing: ForwardingSystemCalls, @unchecked Sendable {
    private let errno: LinuxErrno
    init(_ errno: LinuxErrno) { self.errno = errno }
    override func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int { errno.result }
}
