import Testing

@testable import GuestMemory

@Suite struct SystemTests {
    @Test func errnoNames() {
        #expect("\(Errno.again)" == "EAGAIN")
        #expect(Errno(result: 3) == nil)
        #expect(Errno(result: -11) == .again)
    }
}
