import CGmem
import CTouch
import Glibc
import Testing

@testable import GuestMemory

private let page = Int(cgmem_page_size())
/// -errno, as the seam returns it.
private func failed(_ errno: LinuxErrno) -> Int { errno.result }

/// The guest_memfd as a file: mmap's and fallocate's refusals, status, descriptors and lifetimes.
@Suite struct EmulatorFileTests {
    @Test func mmapRefuses() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let kernel = machine.kernel
        let plain = Int32(kernel.createFile(machine.vm, size: UInt64(page), flags: 0))
        defer { _ = kernel.close(plain) }
        func map(_ protection: Int32, _ flags: Int32, _ file: Int32, length: Int = page, at offset: Int64 = 0)
            -> Int
        {
            let result = kernel.mmap(0, length, protection, flags, file, offset)
            if result > 0 { _ = kernel.munmap(UInt(result), length) }
            return min(result, 0)
        }
        // As a real 6.18.44 answered.
        #expect(map(3, 1, plain) == failed(.noDevice) && map(3, 2, plain) == failed(.noDevice))
        #expect(map(7, 1, plain) == failed(.notPermitted) && map(7, 2, plain) == failed(.notPermitted))
        #expect(map(3, 1, plain, length: 0) == failed(.invalid))
        #expect(map(3, 1, machine.file) == 0 && map(3, 3, machine.file) == 0 && map(0, 1, machine.file) == 0)
        #expect(
            map(3, 2, machine.file) == failed(.invalid) && map(7, 2, machine.file) == failed(.notPermitted))
        #expect(map(7, 1, machine.file) == failed(.notPermitted))
        #expect(map(7, 2, machine.file, length: 0) == failed(.invalid))
        #expect(map(3, 0, machine.file) == failed(.invalid) && map(3, 8, machine.file) == failed(.invalid))
        #expect(map(3, 1, machine.file, at: -Int64(page)) == failed(.overflow))
        #expect(map(3, 1, machine.file, at: 100) == failed(.invalid))
        #expect(map(3, 1, machine.file, at: 1 << 40) == 0)
        #expect(map(3, 1 | 0x40000, machine.file, length: 1 << 21) == failed(.invalid))  // MAP_HUGETLB
        #expect(map(3, 1 | CGMEM_MAP_POPULATE, machine.file) == 0)
        #expect(map(3, 1, machine.vm) == failed(.noDevice))
        #expect(kernel.munmap(1, page) == failed(.invalid) && kernel.munmap(0, 0) == failed(.invalid))
    }

    @Test func fallocateRefuses() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let P = Int64(page)
        let size = Int64(machine.size)
        func ask(_ mode: Int32, _ offset: Int64, _ length: Int64) -> Int {
            machine.kernel.fallocate(machine.file, mode, offset, length)
        }
        #expect(ask(1, 0, size) == 0 && ask(3, 0, size) == 0)
        #expect(ask(0, 0, P) == failed(.notSupported) && ask(2, 0, P) == failed(.notSupported))
        for mode: Int32 in [0x10, 0x11, 0x40, 0x08, 0x20, 0x100] {
            #expect(ask(mode, 0, P) == failed(.notSupported))
        }
        #expect(
            ask(1, -1, P) == failed(.invalid) && ask(1, 0, 0) == failed(.invalid)
                && ask(0, 0, 0) == failed(.invalid))
        #expect(
            ask(1, 1, P) == failed(.invalid) && ask(3, 1, P) == failed(.invalid)
                && ask(3, 0, P + 1) == failed(.invalid))
        #expect(ask(1, size, P) == failed(.invalid) && ask(1, 0, size + P) == failed(.invalid))
        #expect(ask(3, size, P) == 0 && ask(3, 0, size + P) == 0 && ask(3, 1 << 50, P) == 0)
        #expect(ask(3, Int64.max - P + 1, P) == failed(.fileTooBig))
        #expect(machine.kernel.fallocate(machine.vm, 1, 0, P) == failed(.noDevice))
        #expect(!machine.states().contains(.shared))
    }

    @Test func statusAndPosition() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let kernel = machine.kernel
        #expect(kernel.fallocate(machine.file, 1, 0, Int64(page)) == 0)
        var status = cgmem_stat()
        #expect(unsafe kernel.fstat(machine.file, &status) == 0)
        #expect(status.size == UInt64(machine.size) && status.blocks == 0 && status.mode == 0o100600)
        let inode = status.inode
        let copy = Int32(kernel.dup(machine.file))
        defer { _ = kernel.close(copy) }
        #expect(unsafe kernel.fstat(copy, &status) == 0 && status.inode == inode)
        #expect(unsafe kernel.fstat(machine.vm, &status) == 0 && status.mode == 0o600)
        var byte: UInt8 = 0
        #expect(unsafe kernel.pread(machine.file, &byte, 1, 0) == failed(.illegalSeek))
        #expect(kernel.lseek(machine.file, 0, CGMEM_SEEK_DATA) == failed(.illegalSeek))
        // Around the seam there is nothing to be had either.
        let linux = LinuxSystemCalls.shared
        #expect(unsafe linux.pread(machine.file, &byte, 1, 0) < 0)
        #expect(linux.mmap(0, page, 3, CGMEM_MAP_SHARED, machine.file, 0) < 0)
        #expect(linux.fallocate(machine.file, 1, 0, Int64(page)) < 0)
    }

    @Test func aDuplicateIsTheSameFile() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let kernel = machine.kernel
        machine.guestWrite(0, 5)
        let copy = Int32(kernel.dup(machine.file))
        var errorOffset: UInt64 = 0
        #expect(machine.convert(.shared, at: 0, 1, errorOffset: &errorOffset, on: copy) == 0)
        #expect(kernel.state(ofPage: 0, descriptor: machine.file) == .shared)
        #expect(kernel.close(copy) == 0)
        #expect(kernel.state(ofPage: 0, descriptor: copy) == nil)
        #expect(machine.convert(.private, at: 0) == 0)
        // A VM's copy serves as well as the VM, and a file keeps it alive.
        let vm = Int32(kernel.dup(machine.vm))
        #expect(kernel.createFile(vm, size: UInt64(page), flags: 4) == failed(.invalid))
        _ = kernel.close(vm)
    }

    @Test(arguments: EmulatorSetup.all) func mappingsOutliveDescriptors(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup)
        let kernel = machine.kernel
        let file = Int32(
            kernel.createFile(machine.vm, size: UInt64(4 * page), flags: setup.dialect == .one ? 3 : 1))
        var errorOffset: UInt64 = 0
        #expect(machine.convert(.shared, at: 0, 2, errorOffset: &errorOffset, on: file) == 0)
        let mapping = EmulatorMapping(
            kernel: kernel, result: kernel.mmap(0, 4 * page, 3, CGMEM_MAP_SHARED, file, 0), length: 4 * page)
        #expect(mapping.write(page, 3).signal == 0)
        #expect(kernel.close(file) == 0)
        #expect(mapping.read(page).value == 3 && mapping.isRefused(2 * page))
    }

    @Test func aSlotDoesNotKeepItsFile() throws {
        let machine = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        let kernel = machine.kernel
        func bind(_ slot: UInt32, _ file: Int32) -> Int {
            var region = cgmem_kvm_userspace_memory_region2()
            region.slot = slot
            region.flags = CGMEM_KVM_MEM_GUEST_MEMFD
            region.guest_phys_addr = UInt64(slot) << 30
            region.memory_size = UInt64(page)
            region.guest_memfd = UInt32(bitPattern: file)
            return kernel.ioctl(machine.vm, CGMEM_KVM_SET_USER_MEMORY_REGION2, &region)
        }
        let file = Int32(kernel.createFile(machine.vm, size: UInt64(page), flags: 1))
        #expect(bind(0, file) == 0)
        weak let object = kernel.guestMemory(file)
        #expect(kernel.close(file) == 0)
        #expect(object == nil)
        // The slot is still there, with nothing behind it.
        #expect(bind(0, machine.file) == failed(.invalid))
        #expect(bind(1, machine.file) == 0)
    }

    @Test func twoKernelsDoNotKnowEachOther() throws {
        let one = try EmulatorMachine(EmulatorSetup(dialect: .one, mechanism: .automatic))
        let two = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
        #expect(two.kernel.ioctl(one.file, CGMEM_KVM_GMEM_CONVERT_SHARED, 0) < 0)
        #expect(two.kernel.state(ofPage: 0, descriptor: one.file) == nil)
        let mapping = two.map()
        #expect(
            one.kernel.madvise(UInt(mapping.result), page, CGMEM_MADV_POPULATE_READ) == failed(.badAddress))
        #expect(one.convert(.shared, at: 0) == 0 && mapping.isRefused(0))
    }

    @Test(arguments: EmulatorSetup.all) func guestAccessIsBounded(setup: EmulatorSetup) throws {
        let machine = try EmulatorMachine(setup)
        let kernel = machine.kernel
        let size = UInt64(machine.size)
        var bytes: [UInt8] = [1, 2, 3, 4]
        unsafe bytes.withUnsafeMutableBytes { bytes in
            let base = bytes.baseAddress!
            #expect(unsafe kernel.guestWrite(machine.file, size - 4, base, 4) == 4)
            #expect(unsafe kernel.guestWrite(machine.file, size - 3, base, 4) == failed(.badAddress))
            #expect(unsafe kernel.guestRead(machine.file, UInt64.max, base, 1) == failed(.badAddress))
            #expect(unsafe kernel.guestRead(machine.file, 0, base, -1) == failed(.badAddress))
            #expect(unsafe kernel.guestRead(machine.vm, 0, base, 1) == failed(.badFileDescriptor))
        }
        #expect(machine.guestByte(machine.size - 1) == 4)
    }

    /// In a process of its own, where nobody else opens descriptors.
    @Test func nothingIsLeaked() async {
        await #expect(processExitsWith: .success) {
            /// Descriptors of the kinds that the emulated kernel uses: the test library opens others.
            func open() -> Int {
                (0..<1024).filter { number in
                    var link = Array(repeating: CChar(0), count: 64)
                    let length = unsafe readlink("/proc/self/fd/\(number)", &link, link.count)
                    let name = String(decoding: link.prefix(max(0, length)).map(UInt8.init), as: UTF8.self)
                    return name.hasPrefix("/memfd:") || name == "anon_inode:[eventpoll]"
                        || name == "anon_inode:[userfaultfd]"
                }.count
            }
            _ = try EmulatorMachine(EmulatorSetup(dialect: .twoB, mechanism: .automatic))
            let before = open()
            for setup in EmulatorSetup.all {
                let machine = try EmulatorMachine(setup)
                let mapping = machine.map()
                try requireInChild(1, mapping.result > 0 && open() > before)
                try requireInChild(2, machine.convert(.shared, at: 0) == 0)
                let copy = Int32(machine.kernel.dup(machine.file))
                try requireInChild(3, machine.kernel.createFile(machine.vm, size: 1, flags: 0) < 0)
                try requireInChild(4, machine.kernel.close(copy) == 0)
            }
            try requireInChild(5, open() == before)
            // A kernel that goes first takes its mappings along.
            var address = 0
            do {
                let kernel = try EmulatedKernel()
                let device = Int32(unsafe kernel.open("/dev/kvm", CGMEM_O_RDWR))
                let vm = Int32(kernel.ioctl(device, CGMEM_KVM_CREATE_VM, 1))
                let file = Int32(kernel.createFile(vm, size: 1 << 30, flags: 1))
                address = kernel.mmap(0, 1 << 30, 3, CGMEM_MAP_SHARED, file, 0)
                for descriptor in [file, vm, device] { _ = kernel.close(descriptor) }
            }
            try requireInChild(6, open() == before)
            let middle = unsafe UnsafeRawPointer(bitPattern: address + (1 << 29))!
            try requireInChild(7, unsafe ctouch_read(middle).signal == SIGSEGV)
        }
    }
}
