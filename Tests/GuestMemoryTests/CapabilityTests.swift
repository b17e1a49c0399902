import CGmem
import Foundation
import Testing

@testable import GuestMemory

/// Dialects and flags are found by what a kernel does, on every kernel the emulator can be.
@Suite struct CapabilityTests {
    func detect(
        _ configuration: EmulatedKernel.Configuration, _ type: VMType = .softwareProtected
    ) throws -> MemoryCapabilities {
        let device = try KVMDevice.open(on: try EmulatedKernel(configuration))
        return try MemoryCapabilities.detect(try device.createVirtualMachine(type))
    }

    @Test func dialect1WithItsOwnFlags() throws {
        let found = try detect(.dialect1)
        #expect(found.usableDialects == [.convert])
        #expect(found.defaultState == .shared)
        #expect(found.flagBit1 == .startsPrivate)
        #expect(found.level == .emulated)
        #expect(found.creationFlags(for: .private).flags == 3)
        #expect(found.creationFlags(for: .shared).flags == 1)
    }

    @Test func dialect1WithUpstreamFlags() throws {
        var configuration = EmulatedKernel.Configuration.dialect1
        configuration.creationFlags = .upstream
        let found = try detect(configuration)
        #expect(found.usableDialects == [.convert])
        #expect(found.defaultState == .private)
        #expect(found.flagBit1 == .startsShared)
        #expect(found.creationFlags(for: .private).flags == 1)
        #expect(found.creationFlags(for: .shared).flags == 3)
    }

    @Test func dialect2bIn8AndLinuxNext() throws {
        for configuration in [EmulatedKernel.Configuration.dialect2b, .linuxNext] {
            let found = try detect(configuration)
            #expect(found.usableDialects == [.attributes2])
            #expect(found.defaultState == .private)
            #expect(found.flagBit1 == .startsShared)
            #expect(found.method == .inPlace(.attributes2))
        }
    }

    @Test func bothDialectsPreferTheNewer() throws {
        var configuration = EmulatedKernel.Configuration.dialect2b
        configuration.dialects = [.convert, .attributes2]
        #expect(try detect(configuration).usableDialects == [.attributes2, .convert])
    }

    @Test func aCallThatExistsIsNotACallThatWorks() throws {
        // A plain VM answers EINVAL to size 0, as a kernel with the call does, and to every conversion.
        let found = try detect(.dialect2b, .default)
        #expect(found.usableDialects.isEmpty)
        let finding = try #require(found.findings.first { $0.id == "gmem.convert.2b" })
        #expect(finding.works == false)
        #expect(finding.answered.contains("EINVAL"))
    }

    @Test func switchedOffIsAbsent() throws {
        var configuration = EmulatedKernel.Configuration.dialect2b
        configuration.inPlaceConversion = false
        let found = try detect(configuration)
        #expect(found.usableDialects.isEmpty)
        #expect(found.level == nil)
    }

    @Test func capabilityNumbersDecideNothing() throws {
        var lying = EmulatedKernel.Configuration.linux6_18
        for number in [241, 246, 248, 249, 250, 252] as [UInt] {
            lying.capabilityAnswers.append(.init(number: number, answer: 8))
        }
        #expect(try detect(lying, .default).usableDialects.isEmpty)
        var silent = EmulatedKernel.Configuration.dialect2b
        silent.attributesCapability = nil
        #expect(try detect(silent).usableDialects == [.attributes2])
    }

    @Test func aPassingReferenceDoesNotHideADialect() throws {
        let kernel = try EmulatedKernel(.dialect1)
        kernel.setSpontaneousReferences(oneIn: 2)
        let vm = try KVMDevice.open(on: kernel).createVirtualMachine(.softwareProtected)
        #expect(try MemoryCapabilities.detect(vm).usableDialects == [.convert])
    }

    @Test func theReportKeepsQuestionsAndAnswers() throws {
        let report = try "\(detect(.dialect2b))"
        for text in [
            "SW_PROTECTED VM, emulated kernel", "KVM_CREATE_GUEST_MEMFD(flags 3)", "it starts shared",
            "KVM_GMEM_CONVERT_PRIVATE(size 0) -> ENOTTY", "usable dialects: 2b; level: emulated",
        ] {
            #expect(report.contains(text))
        }
    }

    @Test(.enabled(if: RealKVM.isUsable, "no usable /dev/kvm here"))
    func theRealKernelIsAskedByTheSameCode() throws {
        let found = try MemoryCapabilities.detect(try KVMDevice.open().createVirtualMachine())
        #expect(!found.isEmulated)
        // What must hold on any kernel: the report's level follows from what was found.
        #expect((found.level == .kernel) == (found.canMap && found.usableDialects.contains(where: \.isInPlace)))
    }

    /// Out of descriptors, memory or permission is no answer about the kernel.
    @Test(arguments: [
        (ScriptedFault.Call.ioctl(CGMEM_KVM_CREATE_GUEST_MEMFD), LinuxErrno.tooManyOpenFiles),
        (.ioctl(CGMEM_KVM_CREATE_GUEST_MEMFD), .permissionDenied), (.mmap, .noMemory), (.mmap, .again),
        (.ioctl(CGMEM_KVM_SET_MEMORY_ATTRIBUTES2), .noMemory),
    ])
    func notBeingAbleToAskIsAnError(call: ScriptedFault.Call, errno: LinuxErrno) throws {
        for nth in 1...3 {
            let kernel = try EmulatedKernel(.dialect2b)
            let vm = try KVMDevice.open(on: kernel).createVirtualMachine(.softwareProtected)
            // Size 0 is refused before memory is needed: the first call of a dialect is not the one that fails.
            kernel.script(
                ScriptedFault(call, errno, nth: call == .ioctl(CGMEM_KVM_SET_MEMORY_ATTRIBUTES2) ? nth + 1 : nth))
            let failure = error { () throws(GuestMemoryError) in try MemoryCapabilities.detect(vm) }
            #expect(failure?.errno == errno)
        }
    }
}

/// What this machine's /dev/kvm does, not whether it is there.
enum RealKVM {
    static let isUsable: Bool = (try? KVMDevice.open().createVirtualMachine()) != nil
}
