/// A descriptor that is closed exactly once, by whoever holds it last.
package struct OwnedDescriptor: ~Copyable {
    package let number: Int32
    private let system: any SystemCalls

    /// Takes over a descriptor that a call of `system` has just returned, and makes it close-on-exec: a
    /// guest_memfd is not (Linux 6.18), and a helper process that inherits it keeps the guest's memory
    /// alive and readable.
    package init(taking number: Int32, from system: any SystemCalls) {
        self.number = number
        self.system = system
        // F_SETFD can only fail on a bad descriptor, which the next call on it would report.
        _ = system.setCloseOnExec(number)
    }

    /// A close-on-exec copy of a descriptor that stays the caller's.
    package init(copying borrowed: Int32, from system: any SystemCalls) throws(GuestMemoryError) {
        let result = system.dup(borrowed)
        if let errno = LinuxErrno(result: result) {
            throw GuestMemoryError(
                .badDescriptor, "fcntl(F_DUPFD_CLOEXEC)", errno,
                "descriptor \(borrowed) could not be copied: pass an open descriptor")
        }
        self.number = Int32(result)
        self.system = system
    }

    deinit {
        // Linux frees the number whatever close answers: trying again could close somebody else's.
        _ = system.close(number)
    }
}
