struct UsageError: Error {
    var message: String
}

/// The command line.
struct Options {
    enum Action {
        case help
        case report(asJSON: Bool)
        /// `payload` nil: this program's own file. `size` in bytes.
        case selfTest(payload: String?, size: UInt64)
    }

    var action: Action

    init(_ arguments: ArraySlice<String>) throws(UsageError) {
        var rest = arguments
        var asJSON = false
        var selfTest = false
        var payload: String?
        var size: UInt64?
        while let argument = rest.popFirst() {
            switch argument {
            case "-h", "--help":
                action = .help
                return
            case "--json": asJSON = true
            case "--self-test": selfTest = true
            case "--payload": payload = try Self.value(of: argument, &rest)
            case "--size": size = try Self.bytes(try Self.value(of: argument, &rest))
            default: throw UsageError(message: "gmem-probe: unknown argument \(argument)")
            }
        }
        if !selfTest, payload != nil || size != nil {
            throw UsageError(message: "gmem-probe: --payload and --size belong to --self-test")
        }
        if selfTest, asJSON {
            throw UsageError(message: "gmem-probe: --json is for the report, the self-test prints its steps")
        }
        action = selfTest ? .selfTest(payload: payload, size: size ?? 256 << 20) : .report(asJSON: asJSON)
    }

    private static func value(
        of name: String, _ rest: inout ArraySlice<String>
    ) throws(UsageError) -> String {
        guard let value = rest.popFirst() else { throw UsageError(message: "gmem-probe: \(name) needs a value") }
        return value
    }

    /// `268435456`, `256M`, `1G`.
    private static func bytes(_ text: String) throws(UsageError) -> UInt64 {
        var digits = text[...]
        var shift: UInt64 = 0
        switch digits.last {
        case "K", "k": shift = 10
        case "M", "m": shift = 20
        case "G", "g": shift = 30
        default: break
        }
        if shift != 0 { digits = digits.dropLast() }
        guard let number = UInt64(digits), number > 0, number <= UInt64.max >> (shift + 1) else {
            throw UsageError(message: "gmem-probe: --size \(text) is not a number of bytes (try 256M or 1G)")
        }
        return number << shift
    }

    static let usage = "usage: gmem-probe [--json] | --self-test [--payload FILE] [--size SIZE] | --help"

    static let help = """
        \(usage)

        Says what this host offers for the memory of a confidential virtual machine
        (KVM guest_memfd): found by trying it on scratch files, not by version numbers.

          --json            the report as JSON
          --self-test       run the whole life of a guest's memory on the strongest
                            level this host offers: create, preallocate, populate,
                            keep the host out, share, change, make private, meet a
                            held page and recover, read everything back
          --payload FILE    what to load in the self-test (default: this program)
          --size SIZE       how much memory the self-test's guest has (default 256M)

        Levels: kernel    the kernel keeps the host out of private pages
                process   guard pages keep this process out of them; no security
                emulated  an emulated kernel in this process; no security

        Exit code: 0 done, 1 self-test failed, 2 usage, 3 KVM could not be asked.
        """
}
