import CTouch
import Glibc
import GuestMemory

/// Somebody who holds a shared page, and lets go when asked.
protocol PageHolder: AnyObject, Sendable {
    var what: String { get }
    func letGo()
}

/// A real pin, which the kernel sees: the page is in a pipe that nobody has read yet (vmsplice).
final class PipeHolder: PageHolder {
    let what = "an unread vmsplice pipe"
    private let ends: (reading: Int32, writing: Int32)

    init(_ page: UnsafeMutableRawPointer, _ count: Int) throws(GuestMemoryError) {
        ends = try openPipe()
        let result = unsafe ctouch_pin(ends.writing, page, UInt(count))
        if result != count {
            throw GuestMemoryError(
                .systemCall, "vmsplice", LinuxErrno(rawValue: Int32(-result)), "the page could not be held")
        }
    }

    func letGo() {
        close(ends.reading)
        close(ends.writing)
    }
}

/// A lease: what stands in for a pin where nothing sees real ones.
final class LeaseHolder: PageHolder {
    let what = "a lease (this level cannot see real pins)"
    private let lease: SharedLease

    init(_ memory: GuestMemory, _ page: GuestRange) throws(GuestMemoryError) {
        lease = try memory.lease(page, label: "self-test")
    }

    func letGo() { lease.release() }
}

func openPipe() throws(GuestMemoryError) -> (reading: Int32, writing: Int32) {
    var ends: [Int32] = [0, 0]
    if unsafe pipe(&ends) != 0 {
        throw GuestMemoryError(.systemCall, "pipe", LinuxErrno(rawValue: errno), "no pipe could be made")
    }
    return (ends[0], ends[1])
}
