import CGmem
import CTouch
import Glibc

@testable import GuestMemory

private let page = Int(cgmem_page_size())

/// Every dialect on every mechanism. A kernel that has no userfaultfd is tested with holes alone.
struct EmulatorSetup: Sendable, CustomStringConvertible {
    enum Dialect: Sendable { case one, twoB }
    var dialect: Dialect
    var mechanism: EmulatedKernel.Mechanism

    var description: String { "dialect \(dialect == .one ? "1" : "2b"), \(mechanism)" }

    static let mechanisms: [EmulatedKernel.Mechanism] = {
        let automatic = try? EmulatedKernel(.linuxNext)
        if automatic?.mechanism == .userfaultfd { return [.userfaultfd, .holes] }
        print("left out: the emulator's tests with userfaultfd, which is not to be had here (seccomp, old kernel)")
        return [.holes]
    }()

    static let all: [EmulatorSetup] = mechanisms.flatMap { mechanism in
        [
            EmulatorSetup(dialect: .one, mechanism: mechanism),
            EmulatorSetup(dialect: .twoB, mechanism: mechanism),
        ]
    }

    var configuration: EmulatedKernel.Configuration {
        var configuration: EmulatedKernel.Configuration = dialect == .one ? .dialect1 : .linuxNext
        configuration.mechanism = mechanism
        return configuration
    }
}

/// A VM with one guest_memfd on an emulated kernel; all of it goes away at the end.
final class EmulatorMachine: @unchecked Sendable {
    let kernel: EmulatedKernel
    let dialect: EmulatorSetup.Dialect
    let device: Int32
    let vm: Int32
    let file: Int32
    let size: Int

    init(
        _ setup: EmulatorSetup, pages: Int = 16, initially: Shareability = .private, vmType: UInt = 1,
        _ change: (inout EmulatedKernel.Configuration) -> Void = { _ in }
    ) throws {
        var configuration = setup.configuration
        change(&configuration)
        kernel = try EmulatedKernel(configuration)
        dialect = setup.dialect
        device = Int32(unsafe kernel.open("/dev/kvm", CGMEM_O_RDWR | CGMEM_O_CLOEXEC))
        vm = Int32(kernel.ioctl(device, CGMEM_KVM_CREATE_VM, vmType))
        size = pages * page
        let bit1 = configuration.creationFlags == .rfc ? initially == .private : initially == .shared
        file = Int32(kernel.createFile(vm, size: UInt64(pages * page), flags: bit1 ? 3 : 1))
    }

    deinit {
        for descriptor in [file, vm, device] where descriptor >= 0 { _ = kernel.close(descriptor) }
    }

    /// The dialect's conversion call. `errorOffset` is what the structure holds before and after.
    func convert(
        _ state: Shareability, at first: Int, _ count: Int = 1, errorOffset: inout UInt64,
        on descriptor: Int32? = nil
    ) -> Int {
        convert(
            state, offset: UInt64(first * page), size: UInt64(count * page), errorOffset: &errorOffset,
            on: descriptor ?? file)
    }

    func convert(
        _ state: Shareability, offset: UInt64, size: UInt64, errorOffset: inout UInt64, on descriptor: Int32
    ) -> Int {
        switch dialect {
        case .one:
            var request = cgmem_kvm_gmem_convert()
            request.offset = offset
            request.size = size
            request.error_offset = errorOffset
            defer { errorOffset = request.error_offset }
            let number = state == .shared ? CGMEM_KVM_GMEM_CONVERT_SHARED : CGMEM_KVM_GMEM_CONVERT_PRIVATE
            return kernel.ioctl(descriptor, number, &request)
        case .twoB:
            var request = cgmem_kvm_memory_attributes2()
            request.offset = offset
            request.size = size
            request.attributes = state == .shared ? 0 : CGMEM_KVM_MEMORY_ATTRIBUTE_PRIVATE
            request.error_offset = errorOffset
            defer { errorOffset = request.error_offset }
            return kernel.ioctl(descriptor, CGMEM_KVM_SET_MEMORY_ATTRIBUTES2, &request)
        }
    }

    func convert(_ state: Shareability, at first: Int, _ count: Int = 1) -> Int {
        var errorOffset: UInt64 = 0
        return convert(state, at: first, count, errorOffset: &errorOffset)
    }

    /// Maps `count` pages of the file.
    func map(_ first: Int = 0, _ count: Int? = nil, protection: Int32 = CGMEM_PROT_READ | CGMEM_PROT_WRITE)
        -> EmulatorMapping
    {
        let length = (count ?? size / page - first) * page
        return EmulatorMapping(
            kernel: kernel,
            result: kernel.mmap(0, length, protection, CGMEM_MAP_SHARED, file, Int64(first * page)),
            length: length)
    }

    func states() -> [Shareability] { (0..<size / page).map { kernel.state(ofPage: $0, descriptor: file)! } }

    func guestByte(_ offset: Int) -> UInt8 {
        var byte: UInt8 = 0
        let result = unsafe kernel.guestRead(file, UInt64(offset), &byte, 1)
        precondition(result == 1)
        return byte
    }

    func guestWrite(_ offset: Int, _ byte: UInt8) {
        var byte = byte
        let result = unsafe kernel.guestWrite(file, UInt64(offset), &byte, 1)
        precondition(result == 1)
    }
}

final class EmulatorMapping: @unchecked Sendable {
    let kernel: EmulatedKernel
    /// What mmap answered.
    let result: Int
    let length: Int
    init(kernel: EmulatedKernel, result: Int, length: Int) {
        self.kernel = kernel
        self.result = result
        self.length = length
    }
    deinit { if result > 0 { _ = kernel.munmap(UInt(result), length) } }

    func read(_ offset: Int) -> ctouch_result {
        unsafe ctouch_read(UnsafeRawPointer(bitPattern: result + offset)!)
    }
    func write(_ offset: Int, _ value: UInt8) -> ctouch_result {
        unsafe ctouch_write(UnsafeMutableRawPointer(bitPattern: result + offset)!, value)
    }
    /// Whether a touch is refused the way a private page refuses it.
    func isRefused(_ offset: Int) -> Bool {
        for touch in [read(offset), write(offset, 1)] {
            if touch.signal != SIGBUS || touch.code != Int32(BUS_ADRERR)
                || touch.address != UInt64(result + offset)
            {
                return false
            }
        }
        return true
    }
    func advise(_ advice: Int32, _ first: Int = 0, _ count: Int? = nil) -> Int {
        kernel.madvise(UInt(result + first * page), (count ?? length / page - first) * page, advice)
    }
}

extension EmulatedKernel {
    func createFile(_ vm: Int32, size: UInt64, flags: UInt64) -> Int {
        var request = cgmem_kvm_create_guest_memfd()
        request.size = size
        request.flags = flags
        return ioctl(vm, CGMEM_KVM_CREATE_GUEST_MEMFD, &request)
    }
}

struct UnmetInChild: Error {
    var step: Int
}

/// For bodies that run in a process of their own, where an issue would go unnoticed: it ends with `step`
/// as its exit code.
func requireInChild(_ step: Int, _ condition: Bool) throws {
    if !condition && step > 0 { exit(Int32(step)) }
    if !condition { throw UnmetInChild(step: step) }
}
