import Testing

@testable import GuestMemory

@Suite struct SystemTests {
    @Test func errnoNames() {
        #expect("\(LinuxErrno.again)" == "EAGAIN")
        #expect(LinuxErrno(result: 3) == nil)
        #expect(LinuxErrno(result: -11) == .again)
    }
}
