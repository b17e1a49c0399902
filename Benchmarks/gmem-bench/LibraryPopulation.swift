import CBaseline
import CGmem
import GuestMemory

/// The library's side of the population benchmarks, on level `process` of a real guest_memfd. Nil where this
/// machine has none.
func libraryPopulation(_ report: Reporter) -> PopulateOurs? {
    let vm: VirtualMachine
    do throws(GuestMemoryError) {
        vm = try KVMDevice.open().createVirtualMachine()
        guard try MemoryCapabilities.detect(vm).level == .process else { return nil }
    } catch {
        report.note("population by the library: \(error)")
        return nil
    }
    return { which, sources, verify in
        do throws(GuestMemoryError) {
            return try populate(vm, which, sources, verify)
        } catch {
            report.note("\(which.name): \(error)")
            return nil
        }
    }
}

private func populate(
    _ vm: VirtualMachine, _ which: PopulationCase, _ sources: PopulationSources, _ verify: Bool
) throws(GuestMemoryError) -> UInt64? {
    let state: Shareability = which.level == .process ? .private : .shared
    let memory = try GuestMemory.create(
        in: vm, regions: [RegionRequest(address: 0, size: UInt64(sources.size))], initially: state,
        require: .process)
    var plan = PopulationPlan()
    // SAFETY: the sources outlive the call.
    switch which.source {
    case .memory: unsafe plan.add(sources.memory, at: 0)
    case .sparse: unsafe plan.add(sources.sparse, at: 0)
    case .file: plan.add(file: sources.file, count: UInt64(sources.size), at: 0)
    }
    var options = PopulationOptions()
    options.threads = which.threads
    let started = cgmem_monotonic_now()
    try memory.populate(plan, options)
    let time = cgmem_monotonic_now() - started
    if verify {
        let info = memory.regionInfos[0]
        let isGuarded = unsafe cbaseline_is_guarded(
            UnsafeMutableRawPointer(bitPattern: info.hostAddress), sources.size)
        guard isGuarded == (which.level == .process ? 1 : 0), sources.verify(info.descriptor, which.source) else {
            fatalError("\(which.name): contents or guards are wrong")
        }
    }
    try memory.close()
    return time
}
