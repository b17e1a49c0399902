import CGmem
import Testing

@testable import GuestMemory

/// The kernels that one test body runs on: the emulator in its dialects, and what this machine really has.
enum TestKernel: String, CaseIterable, Codable, CustomTestStringConvertible, Sendable {
    case emulated1
    case emulated2b
    case process
    case kernel

    var testDescription: String { rawValue }

    /// The level that memory gets on it.
    var level: PrivacyLevel {
        switch self {
        case .emulated1, .emulated2b: .emulated
        case .process: .process
        case .kernel: .kernel
        }
    }

    /// A new VM on it. Nil configurations of the emulator are not shared: each call makes a kernel of its own.
    func machine() throws -> VirtualMachine {
        switch self {
        case .emulated1:
            try KVMDevice.open(on: EmulatedKernel(.dialect1)).createVirtualMachine(.softwareProtected)
        case .emulated2b:
            try KVMDevice.open(on: EmulatedKernel(.dialect2b)).createVirtualMachine(.softwareProtected)
        case .process: try Self.real(.process)
        case .kernel: try Self.real(.kernel)
        }
    }

    private static func real(_ level: PrivacyLevel) throws -> VirtualMachine {
        let device = try KVMDevice.open()
        for type in [VMType.softwareProtected, .default] where device.vmTypes.contains(type) {
            let vm = try device.createVirtualMachine(type)
            if try MemoryCapabilities.detect(vm).level == level { return vm }
        }
        throw GuestMemoryError(.unsupported, "TestKernel", nil, "no VM here has level \(level)")
    }

    /// What can run here, by behaviour: real levels only where a VM of this machine really has them.
    static let available: [TestKernel] = {
        var kernels: [TestKernel] = [.emulated1, .emulated2b]
        for real in [TestKernel.process, .kernel] {
            do {
                _ = try real.machine()
                kernels.append(real)
            } catch {
                print("left out: tests on level \(real.level): \(error)")
            }
        }
        return kernels
    }()

    func memory(
        _ regions: [RegionRequest] = [RegionRequest(address: 0, size: 1 << 20, slot: 0)],
        initially: Shareability = .private
    ) throws -> GuestMemory {
        try GuestMemory.create(in: machine(), regions: regions, initially: initially, require: level)
    }
}

let pageBytes: UInt64 = UInt64(cgmem_page_size())

func pages(_ start: UInt64, _ count: UInt64 = 1) -> GuestRange {
    GuestRange(address: start * pageBytes, size: count * pageBytes)
}

/// The error that a call throws, nil when it returns.
func error<Result>(_ call: () throws(GuestMemoryError) -> Result) -> GuestMemoryError? {
    do throws(GuestMemoryError) {
        _ = try call()
        return nil
    } catch {
        return error
    }
}
