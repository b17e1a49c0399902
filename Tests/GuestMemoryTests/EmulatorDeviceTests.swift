import CGmem
import Testing

@testable import GuestMemory

private let page = Int(cgmem_page_size())
/// -errno, as the seam returns it.
private func failed(_ errno: LinuxErrno) -> Int { errno.result }

/// /dev/kvm, VMs, creation and binding: each row compared with a real kernel's source or answers.
@Suite struct EmulatorDeviceTests {
    typealias Configuration = EmulatedKernel.Configuration

    private func machine(_ configuration: Configuration, vmType: UInt = 0) throws -> EmulatorMachine {
        try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic), vmType: vmType) {
            $0 = configuration
        }
    }

    @Test func device() throws {
        let machine = try machine(.linuxNext)
        let kernel = machine.kernel
        #expect(kernel.isEmulated && kernel.pageSize == page && kernel.mechanism != .automatic)
        #expect(kernel.ioctl(machine.device, CGMEM_KVM_GET_API_VERSION, 0) == 12)
        #expect(kernel.ioctl(machine.device, CGMEM_KVM_GET_API_VERSION, 1) == failed(.invalid))
        #expect(kernel.ioctl(machine.vm, CGMEM_KVM_GET_API_VERSION, 0) == failed(.notTTY))
        // An unknown request: EINVAL of the device, ENOTTY of all else.
        #expect(kernel.ioctl(machine.device, 0xAE77, 0) == failed(.invalid))
        #expect(kernel.ioctl(machine.vm, 0xAE77, 0) == failed(.notTTY))
        #expect(kernel.ioctl(machine.file, 0xAE77, 0) == failed(.notTTY))
        for type: UInt in [2, 5, 6, 31, 32, 64, UInt.max] {
            #expect(kernel.ioctl(machine.device, CGMEM_KVM_CREATE_VM, type) == failed(.invalid))
        }
        #expect(unsafe kernel.open("/dev/kvm/", 0) < 0)
        #expect(unsafe kernel.open("/nonexistent", 0) == failed(.noSuchFile))
    }

    @Test func capabilities() throws {
        func answers(_ configuration: Configuration, _ numbers: [UInt], vmType: UInt) throws -> [[Int]] {
            let machine = try machine(configuration, vmType: vmType)
            return [machine.device, machine.vm].map { descriptor in
                numbers.map { machine.kernel.ioctl(descriptor, CGMEM_KVM_CHECK_EXTENSION, $0) }
            }
        }
        let common: [UInt] = [201, 231, 232, 10, 236, 9999]
        #expect(
            try answers(.linux6_18, common, vmType: 0)
                == Array(repeating: [4096, 1, 1, 32764, 0, 0], count: 2))
        let numbers: [UInt] = [233, 234, 235, 240, 241, 244, 250, 252]
        // As measured on Linux 6.18.44 with a real /dev/kvm.
        #expect(
            try answers(.linux6_18, numbers, vmType: 0)
                == Array(repeating: [0, 1, 1, 0, 0, 3, 0, 0], count: 2))
        #expect(
            try answers(.linux6_12, numbers, vmType: 0) == [
                [0, 1, 3, 0, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0, 0, 0],
            ])
        #expect(
            try answers(.dialect1, numbers, vmType: 1)
                == Array(repeating: [0, 1, 3, 1, 1, 0, 0, 0], count: 2))
        #expect(
            try answers(.dialect2b, numbers, vmType: 1)
                == Array(repeating: [0, 1, 3, 0, 0, 3, 8, 0], count: 2))
        #expect(
            try answers(.linuxNext, numbers, vmType: 1)
                == Array(repeating: [0, 1, 3, 0, 0, 3, 0, 8], count: 2))
        #expect(try answers(.linuxNext, numbers, vmType: 0)[1] == [0, 1, 3, 0, 0, 3, 0, 0])
        var off = Configuration.linuxNext
        off.inPlaceConversion = false
        #expect(
            try answers(off, numbers, vmType: 1) == [[0, 1, 3, 0, 0, 3, 0, 0], [0, 1, 3, 0, 0, 1, 0, 0]])
        off.capabilityAnswers = [.init(number: 234, answer: 7)]
        #expect(try answers(off, [234], vmType: 1) == [[7], [7]])
    }

    @Test func enableCapability() throws {
        let machine = try machine(.linuxNext)
        func ask(_ cap: UInt32, _ flags: UInt32, _ bits: UInt64) -> Int {
            var request = cgmem_kvm_enable_cap()
            request.cap = cap
            request.flags = flags
            request.args.0 = bits
            return machine.kernel.ioctl(machine.vm, CGMEM_KVM_ENABLE_CAP, &request)
        }
        #expect(ask(201, 0, 4096) == 0 && ask(201, 0, 0) == 0)
        #expect(ask(201, 1, 4096) == failed(.invalid))
        #expect(ask(201, 0, 1) == failed(.invalid))
        #expect(ask(9999, 0, 0) == failed(.invalid))
        #expect(machine.kernel.ioctl(machine.vm, CGMEM_KVM_ENABLE_CAP, 0) == failed(.badAddress))
    }

    @Test func creation() throws {
        func results(_ configuration: Configuration, vmType: UInt, _ flags: [UInt64]) throws -> [Int] {
            let machine = try machine(configuration, vmType: vmType)
            return flags.map { flags in
                let result = machine.kernel.createFile(machine.vm, size: UInt64(page), flags: flags)
                if result < 0 { return result }
                _ = machine.kernel.close(Int32(result))
                return 0
            }
        }
        let no = failed(.invalid)
        let flags: [UInt64] = [0, 1, 2, 3, 4, 8, 1 << 63, 21 << 58]
        #expect(try results(.linux6_12, vmType: 1, flags) == [0, no, no, no, no, no, no, no])
        #expect(try results(.linux6_18, vmType: 0, flags) == [0, 0, 0, 0, no, no, no, no])
        #expect(try results(.linuxNext, vmType: 1, flags) == [0, 0, 0, 0, no, no, no, no])
        #expect(try results(.dialect1, vmType: 1, flags) == [0, 0, no, 0, no, no, no, no])
        var off = Configuration.linuxNext
        off.inPlaceConversion = false
        #expect(try results(off, vmType: 1, flags) == [0, 0, no, no, no, no, no, no])
        #expect(try results(off, vmType: 0, flags) == [0, 0, 0, 0, no, no, no, no])

        let sizes = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        for size: UInt64 in [0, 1, UInt64(page) + 1, 1 << 63, UInt64.max] {
            #expect(sizes.kernel.createFile(sizes.vm, size: size, flags: 0) == no)
        }
        #expect(sizes.kernel.ioctl(sizes.vm, CGMEM_KVM_CREATE_GUEST_MEMFD, 0) == failed(.badAddress))
    }

    @Test func initialStates() throws {
        func state(_ configuration: Configuration, _ flags: UInt64, vmType: UInt) throws -> Shareability? {
            let machine = try machine(configuration, vmType: vmType)
            let file = Int32(machine.kernel.createFile(machine.vm, size: UInt64(page), flags: flags))
            defer { _ = machine.kernel.close(file) }
            return machine.kernel.state(ofPage: 0, descriptor: file)
        }
        #expect(try state(.linuxNext, 1, vmType: 1) == .private && state(.linuxNext, 3, vmType: 1) == .shared)
        #expect(try state(.linuxNext, 2, vmType: 1) == .shared)
        #expect(try state(.dialect1, 1, vmType: 1) == .shared && state(.dialect1, 3, vmType: 1) == .private)
        #expect(
            try state(.linux6_18, 0, vmType: 0) == .private && state(.linux6_12, 0, vmType: 0) == .private)
        var mixed = Configuration.dialect1
        mixed.creationFlags = .upstream
        #expect(try state(mixed, 1, vmType: 1) == .private && state(mixed, 3, vmType: 1) == .shared)
    }

    @Test func regions() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic), pages: 256)
        let kernel = machine.kernel
        let P = UInt64(page)
        func bind(
            _ slot: UInt32, flags: UInt32 = 4, gpa: UInt64, pages: UInt64 = 4, user: UInt64 = 0,
            at offset: UInt64 = 0,
            file: Int32? = nil, vm: Int32? = nil
        ) -> Int {
            var region = cgmem_kvm_userspace_memory_region2()
            region.slot = slot
            region.flags = flags
            region.guest_phys_addr = gpa
            region.memory_size = pages * P
            region.userspace_addr = user
            region.guest_memfd_offset = offset
            region.guest_memfd = UInt32(bitPattern: file ?? machine.file)
            return kernel.ioctl(vm ?? machine.vm, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
        }
        let no = failed(.invalid)
        #expect(kernel.ioctl(machine.vm, CGMEM_KVM_SET_USER_MEMORY_REGION2, 0) == failed(.badAddress))
        #expect(bind(0, gpa: 0) == 0)
        // An existing slot can only be deleted.
        #expect(bind(0, gpa: 0) == no && bind(0, gpa: 1 << 30, at: 64 * P) == no)
        // Guest-physical overlap is seen before the descriptor is looked at.
        #expect(bind(1, gpa: 3 * P, at: 64 * P) == failed(.exists))
        #expect(bind(1, gpa: 3 * P, at: 64 * P, file: 9999) == failed(.exists))
        // Overlap in the file.
        #expect(bind(1, gpa: 1 << 30, at: 3 * P) == failed(.exists))
        #expect(bind(1, gpa: 1 << 30, at: 4 * P) == 0)
        // Limits and alignment.
        #expect(bind(32764, gpa: 2 << 30, at: 64 * P) == no)
        #expect(bind(32763, gpa: 2 << 30, at: 64 * P) == 0)
        #expect(bind(1 << 16, gpa: 3 << 30, at: 128 * P) == no)
        #expect(bind(2, gpa: (3 << 30) + 1, at: 128 * P) == no)
        #expect(bind(2, gpa: 3 << 30, user: 1, at: 128 * P) == no)
        #expect(bind(2, gpa: 3 << 30, user: 0x7fff_ffff_f000, at: 128 * P) == no)
        #expect(bind(2, gpa: 3 << 30, at: 128 * P + 1) == no)
        #expect(bind(2, gpa: 3 << 30, at: 253 * P) == no)
        #expect(bind(2, gpa: 3 << 30, at: UInt64.max - P + 1) == no)
        #expect(bind(2, gpa: 1 << 52, at: 128 * P) == no)
        #expect(bind(2, gpa: UInt64.max - P + 1, at: 128 * P) == no)
        #expect(bind(2, gpa: 3 << 30, pages: 1 << 31, at: 128 * P) == no)
        // Flags.
        for flags: UInt32 in [4 | 1, 4 | 2, 8, 4 | 8, 1 << 31] {
            #expect(bind(2, flags: flags, gpa: 3 << 30, at: 128 * P) == no)
        }
        // Descriptors.
        #expect(bind(2, gpa: 3 << 30, at: 128 * P, file: 9999) == failed(.badFileDescriptor))
        #expect(bind(2, gpa: 3 << 30, at: 128 * P, file: -1) == failed(.badFileDescriptor))
        for file in [machine.device, machine.vm, 0] {
            #expect(bind(2, gpa: 3 << 30, at: 128 * P, file: file) == no)
        }
        let other = Int32(kernel.ioctl(machine.device, CGMEM_KVM_CREATE_VM, 1))
        #expect(bind(2, gpa: 3 << 30, at: 128 * P, vm: other) == no)
        // Deleting: by size 0, whatever else is said.
        #expect(bind(9, flags: 0, gpa: 0, pages: 0) == no)
        #expect(bind(0, gpa: 77 * P, pages: 0, at: P, file: 9999) == 0)
        #expect(bind(0, gpa: 0, pages: 0) == no)
        #expect(bind(0, gpa: 0) == 0)
        // Without guest_memfd: may move, may not grow.
        #expect(bind(5, flags: 1, gpa: 5 << 30, user: 1 << 20) == 0)
        #expect(bind(5, flags: 0, gpa: 6 << 30, user: 1 << 20) == 0)
        #expect(bind(5, flags: 0, gpa: 6 << 30, pages: 5, user: 1 << 20) == no)
        #expect(bind(5, flags: 0, gpa: 6 << 30, user: 2 << 20) == no)
        #expect(bind(5, flags: 2, gpa: 6 << 30, user: 1 << 20) == no)
        _ = kernel.close(other)
    }

    @Test func bindingTheOldWays() throws {
        func overlap(_ configuration: Configuration, vmType: UInt) throws -> [Int] {
            let machine = try machine(configuration, vmType: vmType)
            let file = Int32(machine.kernel.createFile(machine.vm, size: UInt64(page), flags: 0))
            defer { _ = machine.kernel.close(file) }
            return (0..<2).map { slot in
                var region = cgmem_kvm_userspace_memory_region2()
                region.slot = UInt32(slot)
                region.flags = CGMEM_KVM_MEM_GUEST_MEMFD
                region.guest_phys_addr = UInt64(slot) << 30
                region.memory_size = UInt64(page)
                region.guest_memfd = UInt32(file)
                return machine.kernel.ioctl(machine.vm, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
            }
        }
        #expect(try overlap(.linux6_18, vmType: 0) == [0, failed(.invalid)])
        #expect(try overlap(.linuxNext, vmType: 0) == [0, failed(.exists)])
        #expect(try overlap(.linux6_12, vmType: 1) == [0, failed(.invalid)])
        #expect(try overlap(.linux6_12, vmType: 0) == [failed(.invalid), failed(.invalid)])
    }

    /// RFC v2 wants the mapping at userspace_addr to be the file's own.
    @Test func dialect1LooksAtUserspaceAddress() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .one, mechanism: .automatic))
        let mapping = machine.map(4, 8)
        func bind(_ user: UInt64) -> Int {
            var region = cgmem_kvm_userspace_memory_region2()
            region.flags = CGMEM_KVM_MEM_GUEST_MEMFD
            region.memory_size = UInt64(4 * page)
            region.userspace_addr = user
            region.guest_memfd_offset = UInt64(8 * page)
            region.guest_memfd = UInt32(machine.file)
            return machine.kernel.ioctl(machine.vm, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
        }
        #expect(bind(UInt64(mapping.result)) == failed(.invalid))
        #expect(bind(UInt64(page)) == failed(.invalid))
        #expect(bind(UInt64(mapping.result + 4 * page)) == 0)
    }
}
