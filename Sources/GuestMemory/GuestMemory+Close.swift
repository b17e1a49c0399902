extension GuestMemory {
    /// Ends the memory in order: slots, views, files. The VM stays. Stop the vCPUs first.
    ///
    /// Throws `inUse`, naming the holders, while leases, copies or conversions are under way, and then
    /// nothing has changed. Works on a poisoned memory too; a second call does nothing.
    public func close() throws(GuestMemoryError) {
        if isForked {
            throw GuestMemoryError(.closed, "close", nil, "the memory belongs to the parent process")
        }
        claims.lock.lock()
        if shared.value.state == .closed {
            claims.lock.unlock()
            return
        }
        if !claims.isEmpty {
            let names = claims.labels(overlapping: 0, .max)
            claims.lock.unlock()
            throw GuestMemoryError(
                .inUse, "close", .busy,
                names.isEmpty
                    ? "a conversion is under way"
                    : "still leased by \(names.joined(separator: ", ")): release that first")
        }
        shared.value.state = .closed
        claims.lock.unlock()
        dismantle()
    }

    /// Slots first, so that the guest has lost the memory when the host's views go.
    func dismantle() {
        unbindSlots(regions[...])
        settleStates()
        for file in files { file.end() }
    }

    /// One state per file of ours before it is closed. A port of the v8 series to Linux 7.3.4 panicked when it
    /// tore down a file whose pages alternated (121 or more of them). To private, because that way nobody
    /// gets to see anything; a page that is still held stays as it is, which is what the kernel expects.
    private func settleStates() {
        guard case .inPlace = method else { return }
        for file in files where file.isOurs {
            let whole = PageRange(start: 0, count: file.ledger.value.pageCount)
            if file.ledger.value.uniformState(of: whole) == nil {
                _ = file.converter.attempt(whole, to: .private, on: system)
            }
        }
    }
}
