import Glibc
import GuestMemory

/// `gmem-probe`: what this host offers for a confidential guest's memory, found by trying it.
///
/// Exit codes: 0 done, 1 the self-test failed, 2 usage, 3 KVM could not be asked (the report says why).
@main
struct GmemProbe {
    static func main() {
        // A reader that went away ends the program with an answer from write, not with a signal.
        signal(SIGPIPE, SIG_IGN)
        do throws(UsageError) {
            exit(run(try Options(CommandLine.arguments.dropFirst())))
        } catch {
            complain(error.message + "\n" + Options.usage)
            exit(2)
        }
    }

    private static func run(_ options: Options) -> Int32 {
        switch options.action {
        case .help:
            print(Options.help)
            return 0
        case .report(let asJSON):
            let report = HostReport.gather()
            print(asJSON ? report.json : report.table)
            return report.kvmError == nil ? 0 : 3
        case .selfTest(let payload, let size):
            do throws(GuestMemoryError) {
                try SelfTest(payload: payload, size: size).run()
                return 0
            } catch {
                complain("gmem-probe: self-test failed: \(error)")
                if let outcome = error.outcome { complain("gmem-probe: outcome: \(outcome)") }
                return 1
            }
        }
    }

    private static func complain(_ text: String) {
        let line = text + "\n"
        // SAFETY: the pointer is good for the call. Nobody is left to tell if it fails.
        _ = unsafe line.withCString { unsafe write(STDERR_FILENO, $0, strlen($0)) }
    }
}
