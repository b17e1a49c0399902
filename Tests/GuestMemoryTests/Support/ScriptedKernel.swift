import CGmem

@testable import GuestMemory

/// A kernel that answers conversions from a script, on a clock that only sleeping moves. For tests of what
/// the library does with an answer; what a kernel answers is the emulator's business.
final class ScriptedKernel: ForwardingSystemCalls, @unchecked Sendable {
    struct Conversion: Equatable {
        var offset: UInt64
        var size: UInt64
        var toPrivate: Bool
        /// What came in, which some kernels refuse unless it is 0.
        var errorOffset: UInt64
    }

    /// Answers of the next conversions: 0 or -errno, and the error offset to leave. Then 0 for ever.
    var answers: [(result: Int, errorOffset: UInt64)] = []
    /// Pages (file offsets) somebody holds: every conversion to private that covers one answers EAGAIN.
    var held: Set<UInt64> = []
    private(set) var conversions: [Conversion] = []
    private(set) var pauses: [UInt64] = []
    private(set) var time: UInt64 = 1_000_000
    /// Answers of the next sleeps.
    var sleepAnswers: [Int] = []
    var clockReads = 0

    override var isEmulated: Bool { true }
    override var pageSize: Int { 4096 }

    override func ioctl(_ descriptor: Int32, _ request: UInt32, _ argument: UInt) -> Int {
        guard request == CGMEM_KVM_SET_MEMORY_ATTRIBUTES2,
            let call = unsafe UnsafeMutablePointer<cgmem_kvm_memory_attributes2>(bitPattern: argument)
        else { return LinuxErrno.notTTY.result }
        unsafe conversions.append(
            Conversion(
                offset: call.pointee.offset, size: call.pointee.size, toPrivate: call.pointee.attributes == 8,
                errorOffset: call.pointee.error_offset))
        if !answers.isEmpty {
            let answer = answers.removeFirst()
            unsafe call.pointee.error_offset = answer.errorOffset
            return answer.result
        }
        if unsafe call.pointee.attributes == 8 {
            let (start, end) = unsafe (call.pointee.offset, call.pointee.offset + call.pointee.size)
            if let page = held.sorted().first(where: { start <= $0 && $0 < end }) {
                unsafe call.pointee.error_offset = page
                return LinuxErrno.again.result
            }
        }
        return 0
    }

    override func now() -> UInt64 {
        clockReads += 1
        return time
    }
    override func sleep(nanoseconds: UInt64) -> Int {
        pauses.append(nanoseconds)
        time += nanoseconds
        return sleepAnswers.isEmpty ? 0 : sleepAnswers.removeFirst()
    }
    override func random(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        for index in 0..<count { unsafe buffer.storeBytes(of: UInt8(index + 1), toByteOffset: index, as: UInt8.self) }
        return count
    }

    override func wait(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ deadline: UInt64) -> Int {
        time = max(time, deadline)
        return LinuxErrno.timedOut.result
    }
}
