extension RetryLoop.Failure {
    /// The error a caller sees: what the kernel answered, about which page, and what to do.
    func described(
        _ call: String, _ range: GuestRange?, elapsed: UInt64, holders: [String] = []
    ) -> GuestMemoryError {
        switch self {
        case .held(_, let byHook):
            var text = "somebody holds the page at \(hex(range?.address ?? 0))"
            text +=
                holders.isEmpty
                ? " (no lease of ours: a device mapping, a pinned I/O buffer, an unread vmsplice pipe)"
                : ": " + holders.joined(separator: ", ")
            text += byHook ? "; its owner said to give up" : "; waited \(elapsed / 1_000_000) ms"
            return GuestMemoryError(.held, call, .again, range: range, text + ". Let it go and convert again")
        case .cancelled:
            return GuestMemoryError(
                .cancelled, call, .canceled, range: range,
                "cancelled while waiting for whoever holds the page")
        case .noMemory:
            return GuestMemoryError(
                .noMemory, call, .noMemory, range: range,
                "the kernel has no memory for its bookkeeping: free some and convert again")
        case .refused(let errno):
            let why: String
            switch errno {
            case .notTTY: why = "the kernel does not have this call, or in-place conversion is switched off"
            case .invalid: why = "the kernel finds the request invalid: this VM type may have no private memory"
            default: why = "the kernel refuses, and trying again would not help"
            }
            return GuestMemoryError(.systemCall, call, errno, range: range, why)
        }
    }
}
