import CBaseline
import CGmem
import GuestMemory

/// What surrounds a conversion call: everything but the kernel's part of it.
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
    do throws(GuestMemoryError) {
        try throughTheLibrary(report, calls)
    } catch {
        report.note("conversion: \(error)")
    }
}

private func throughTheLibrary(_ report: Reporter, _ calls: Int) throws(GuestMemoryError) {
    let kernel = InstantKernel(try EmulatedKernel(.dialect2b))
    let vm = try KVMDevice.open(on: kernel).createVirtualMachine(.softwareProtected)
    let memory = try GuestMemory.create(
        in: vm,
        regions: [
            RegionRequest(address: 0, size: 3 << 30), RegionRequest(address: 4 << 30, size: 13 << 30),
        ], require: .emulated)
    kernel.isArmed = true
    let page = UInt64(kernel.pageSize)
    func flip(_ count: Int) {
        for index in 0..<UInt64(count / 2) {
            let range = GuestRange(address: (index & 1023) * 37 * page, size: page)
            require { () throws(GuestMemoryError) in try memory.convert(range, to: .shared) }
            require { () throws(GuestMemoryError) in try memory.convert(range, to: .private) }
        }
    }
    func repeatRequest(_ count: Int) {
        let range = GuestRange(address: 64 * page, size: 16 * page)
        for _ in 0..<count { require { () throws(GuestMemoryError) in try memory.convert(range, to: .private) } }
    }
    report.measure("conversion: a page, kernel answers at once", operations: calls, target: .atMost(150)) {
        flip(calls)
    }
    report.measure("conversion: already satisfied", operations: calls, target: .atMost(50)) { repeatRequest(calls) }
    report.measureAllocations("conversion: allocations of a page's", operations: 1000, target: .atMost(0)) {
        flip(1000)
    }
    report.measureAllocations("conversion: allocations when satisfied", operations: 1000, target: .atMost(0)) {
        repeatRequest(1000)
    }
    kernel.isArmed = false
    try memory.close()
}

private func require(_ convert: () throws(GuestMemoryError) -> ConversionOutcome) {
    do throws(GuestMemoryError) { _ = try convert() } catch { fatalError("\(error)") }
}

/// Makes the optimizer believe that somebody looks at the value.
@inline(never)
private func keep(_ values: [Int]) { withExtendedLifetime(values) {} }
