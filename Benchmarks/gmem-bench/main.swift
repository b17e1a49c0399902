import Glibc

guard let report = Reporter(arguments: Array(CommandLine.arguments.dropFirst())) else {
    print(Reporter.usage)
    exit(2)
}
ledgerBenchmarks(report)
conversionBenchmarks(report)
populationBenchmarks(report, ours: libraryPopulation(report))
exit(report.finish())
