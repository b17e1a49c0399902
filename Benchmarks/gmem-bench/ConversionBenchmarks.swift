import CBaseline
import CGmem

/// What surrounds a conversion call, without the kernel's part of it. The library's own rows go here, with
/// `measure` and `measureAllocations`; until then the yardstick: an ioctl that the kernel refuses at once.
func conversionBenchmarks(_ report: Reporter) {
    let calls = 100_000
    let device = unsafe cgmem_open("/dev/null", CGMEM_O_RDWR | CGMEM_O_CLOEXEC)
    guard device >= 0 else { return report.note("conversion: /dev/null: errno \(-device)") }
    defer { _ = cgmem_close(Int32(device)) }
    report.measure("conversion: bare ioctl that answers ENOTTY", operations: calls) {
        for _ in 0..<calls { _ = cgmem_ioctl(Int32(device), 0xAEFF, 0) }
    }
    // That this is 1 and not 0 shows that the counter sees Swift's allocations.
    report.measureAllocations("conversion: allocations of an array, to try the counter", operations: 1000) {
        for size in 1...1000 { keep([Int](repeating: size, count: size)) }
    }
}

/// Makes the optimizer believe that somebody looks at the value.
@inline(never)
private func keep(_ values: [Int]) { withExtendedLifetime(values) {} }
