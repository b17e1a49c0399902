import Glibc
import GuestMemory

/// What this host offers, VM type by VM type.
struct HostReport {
    var kernel: String
    var machine: String
    /// Why KVM could not be asked.
    var kvmError: GuestMemoryError?
    /// One for each type of VM that could be created, and why others could not.
    var types: [(type: VMType, capabilities: MemoryCapabilities?, error: GuestMemoryError?)] = []

    static func gather() -> HostReport {
        var name = utsname()
        _ = unsafe uname(&name)
        var report = HostReport(kernel: text(of: &name.release), machine: text(of: &name.machine))
        do throws(GuestMemoryError) {
            let device = try KVMDevice.open()
            for type in device.vmTypes {
                do throws(GuestMemoryError) {
                    let vm = try device.createVirtualMachine(type)
                    report.types.append((type, try MemoryCapabilities.detect(vm), nil))
                } catch {
                    report.types.append((type, nil, error))
                }
            }
        } catch {
            report.kvmError = error
        }
        return report
    }

    /// The strongest level that any VM here can have; an emulated kernel is to be had everywhere.
    var level: PrivacyLevel {
        types.compactMap { $0.capabilities?.level }.max() ?? .emulated
    }

    // MARK: For people

    var table: String {
        var lines = ["gmem-probe: Linux \(kernel) on \(machine)"]
        if let kvmError { lines.append("/dev/kvm: \(kvmError)") }
        for (type, capabilities, error) in types {
            lines.append("")
            lines.append("VM type \(type)")
            if let error { lines.append("  no  \(error)") }
            guard let capabilities else { continue }
            let width = capabilities.findings.map { $0.asked.count }.max() ?? 0
            for finding in capabilities.findings {
                let mark = finding.works.map { $0 ? "yes" : "no " } ?? "   "
                let padding = String(repeating: " ", count: width - finding.asked.count)
                lines.append("  \(mark) \(finding.asked)\(padding)  \(finding.answered)")
            }
            let dialects = capabilities.usableDialects.map { "\($0.label)" }.joined(separator: ", ")
            lines.append("  usable dialects: \(dialects.isEmpty ? "none" : dialects)")
            lines.append("  level: \(capabilities.level.map { "\($0)" } ?? "none")")
        }
        lines.append("")
        lines.append("strongest level here: \(level): \(level.meaning)")
        return lines.joined(separator: "\n")
    }

    // MARK: For programs

    var json: String {
        var writer = JSONWriter()
        writer.object {
            $0.field("schema_version", 1)
            $0.field("kernel", kernel)
            $0.field("machine", machine)
            $0.field("level", "\(level)")
            $0.field("kvm_error", kvmError.map { "\($0)" })
            $0.array("vm_types", types) { writer, entry in
                writer.field("type", "\(entry.type)")
                writer.field("error", entry.error.map { "\($0)" })
                guard let capabilities = entry.capabilities else { return }
                writer.field("level", capabilities.level.map { "\($0)" })
                writer.field("flag_bit_1", "\(capabilities.flagBit1)")
                writer.strings("usable_dialects", capabilities.usableDialects.map { "\($0.label)" })
                writer.array("findings", capabilities.findings) { writer, finding in
                    writer.field("id", finding.id)
                    writer.field("asked", finding.asked)
                    writer.field("answered", finding.answered)
                    writer.field("works", finding.works)
                }
            }
        }
        return writer.text
    }

    /// The text of a fixed-size C array of characters.
    private static func text<Field>(of field: inout Field) -> String {
        // SAFETY: uname fills its fields with a terminating 0.
        unsafe withUnsafeBytes(of: &field) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
