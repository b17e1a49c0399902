import Foundation
import Testing

@testable import GuestMemory
@testable import gmem_probe

/// gmem-probe as its users meet it: what it prints and what it exits with.
@Suite struct ProbeTests {
    static let tool = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        .appendingPathComponent("gmem-probe")

    func run(_ arguments: String...) throws -> (code: Int32, output: String, errors: String) {
        let process = Process()
        process.executableURL = Self.tool
        process.arguments = arguments
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let complaints = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text, complaints)
    }

    /// 0 where KVM can be asked, 3 where not.
    var reportCode: Int32 { RealKVM.isUsable ? 0 : 3 }

    @Test func theTableNamesTheLevel() throws {
        let result = try run()
        #expect(result.code == reportCode)
        #expect(result.output.contains("strongest level here: "))
    }

    @Test func theJSONIsJSONAndSaysTheSame() throws {
        let result = try run("--json")
        #expect(result.code == reportCode)
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
        #expect(object["schema_version"] as? Int == 1)
        let level = try #require(object["level"] as? String)
        #expect(try run().output.contains("strongest level here: \(level)"))
        let types = try #require(object["vm_types"] as? [[String: Any]])
        for type in types where type["error"] is NSNull {
            let findings = try #require(type["findings"] as? [[String: Any]])
            #expect(findings.contains { $0["id"] as? String == "gmem.convert.2b" })
        }
    }

    @Test func theSelfTestRunsTheWholeLife() throws {
        let result = try run("--self-test", "--size", "32M", "--payload", "/proc/self/exe")
        #expect(result.code == 0, "\(result.errors)")
        let lines = result.output.split(separator: "\n")
        #expect(lines.first?.hasPrefix("level: ") == true)
        #expect(lines.last?.hasPrefix("PASS: ") == true)
        for step in [
            "create", "preallocate", "populate", "keep out", "make private", "held page", "recover", "read back",
        ] {
            #expect(result.output.contains(step))
        }
    }

    @Test(arguments: [
        ["--bogus"], ["--payload"], ["--payload", "/etc/passwd"], ["--self-test", "--size", "much"],
        ["--self-test", "--size", "0"], ["--self-test", "--json"], ["--self-test", "--size", "99999999999999999999"],
    ])
    func wrongUsageExitsWith2(arguments: [String]) {
        #expect(throws: UsageError.self) { try Options(arguments[...]) }
    }

    @Test func failuresExitWith1AndSayWhy() throws {
        let missing = try run("--self-test", "--payload", "/nonexistent")
        #expect(missing.code == 1)
        #expect(missing.errors.contains("/nonexistent"))
        let small = try run("--self-test", "--size", "2M", "--payload", Self.tool.path)
        #expect(small.code == 1)
        #expect(small.errors.contains("--size"))
        #expect(try run("--bogus").code == 2)
        #expect(try run("--help").code == 0)
    }

    @Test func jsonStringsAreEscaped() {
        #expect(JSONWriter.quoted("a\"b\\c\n\t\u{1}é") == "\"a\\\"b\\\\c\\n\\t\\u0001é\"")
    }
}
