import CGmem

@testable import GuestMemory

/// Keeps the books of descriptors and mappings that the library takes and gives back. By the calls, not by
/// /proc: other tests of this process open descriptors meanwhile.
final class CountingKernel: ForwardingSystemCalls, @unchecked Sendable {
    private let lock = Lock()
    private var descriptors: Set<Int32> = []
    private var mappings: [UInt: Int] = [:]
    private var wrongs: [String] = []

    /// Descriptors and mappings that were not given back.
    var open: Int { lock.withLock { descriptors.count + mappings.count } }
    /// Calls that gave back what was not taken, and descriptors that are not close-on-exec.
    var mistakes: [String] { lock.withLock { wrongs + unmarked.map { "descriptor \($0) is not close-on-exec" } } }
    private var unmarked: Set<Int32> = []

    private func taken(_ result: Int, closeOnExec: Bool) -> Int {
        if result >= 0 {
            lock.withLock {
                descriptors.insert(Int32(result))
                if !closeOnExec { unmarked.insert(Int32(result)) }
            }
        }
        return result
    }

    override func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int {
        taken(unsafe super.open(path, flags), closeOnExec: flags & CGMEM_O_CLOEXEC != 0)
    }
    override func dup(_ descriptor: Int32) -> Int { taken(super.dup(descriptor), closeOnExec: true) }
    override func setCloseOnExec(_ descriptor: Int32) -> Int {
        lock.withLock { _ = unmarked.remove(descriptor) }
        return super.setCloseOnExec(descriptor)
    }
    override func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        let result = super.ioctl(descriptor, request, argument)
        let makes = request == CGMEM_KVM_CREATE_VM || request == CGMEM_KVM_CREATE_GUEST_MEMFD
        return makes ? taken(result, closeOnExec: false) : result
    }
    override func close(_ descriptor: Int32) -> Int {
        lock.withLock {
            if descriptors.remove(descriptor) == nil { wrongs.append("close(\(descriptor)) of somebody else's") }
            unmarked.remove(descriptor)
        }
        return super.close(descriptor)
    }
    override func mmap(
        _ address: UInt, _ length: Int, _ protection: Int32, _ flags: Int32, _ descriptor: Int32, _ offset: Int64
    ) -> Int {
        let result = super.mmap(address, length, protection, flags, descriptor, offset)
        if result > 0 { lock.withLock { mappings[UInt(result)] = length } }
        return result
    }
    override func munmap(_ address: UInt, _ length: Int) -> Int {
        lock.withLock {
            if mappings.removeValue(forKey: address) != length { wrongs.append("munmap of another length") }
        }
        return super.munmap(address, length)
    }
}
