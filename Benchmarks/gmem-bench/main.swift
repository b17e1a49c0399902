import Glibc

guard let report = Reporter(arguments: Array(CommandLine.arguments.dropFirst())) else {
    print(Reporter.usage)
    exit(2)
}
// ledgerBenchmarks(report) goes here, with the ledger.
conversionBenchmarks(report)
populationBenchmarks(report)
exit(report.finish())
