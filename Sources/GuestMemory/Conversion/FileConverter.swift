import CGmem

/// What converts runs of one file: the method, and what the method's call is made on.
package struct FileConverter: BitwiseCopyable {
    package let method: ConversionMethod
    /// The guest_memfd.
    package let descriptor: Int32
    /// Where the host view of the file starts, for guard pages.
    package let hostView: UInt
    /// log2 of the page size.
    package let pageShift: Int

    package init(method: ConversionMethod, descriptor: Int32, hostView: UInt, pageShift: Int) {
        self.method = method
        self.descriptor = descriptor
        self.hostView = hostView
        self.pageShift = pageShift
    }

    /// One attempt at one run.
    @inline(__always)
    package func attempt(
        _ run: PageRange, to state: Shareability, on system: any SystemCalls
    ) -> ConversionAnswer {
        switch method {
        case .inPlace(let dialect):
            return dialect.convert(
                descriptor, offset: UInt64(run.start) << UInt64(pageShift),
                size: UInt64(run.count) << UInt64(pageShift), to: state, on: system)
        case .guardPages:
            return ConversionAnswer(result: guardPages(run, state, on: system), errorOffset: 0)
        }
    }

    private func guardPages(_ run: PageRange, _ state: Shareability, on system: any SystemCalls) -> Int {
        let address = hostView + UInt(run.start) << UInt(pageShift)
        let length = run.count << pageShift
        let advice = state == .shared ? CGMEM_MADV_GUARD_REMOVE : CGMEM_MADV_GUARD_INSTALL
        let result = system.madvise(address, length, advice)
        if result != LinuxErrno.invalid.result { return result }
        // Somebody locked the memory since (mlockall). Guards cannot be set on locked memory, and guest
        // memory is not swapped anyway.
        _ = system.munlock(address, length)
        return system.madvise(address, length, advice)
    }

    /// Whether a failed call may have changed some of the run: guards are set page by page, and dialect 1's
    /// rollback can itself run out of memory, with only a kernel warning.
    func mayLeaveTraces(afterNoMemory: Bool) -> Bool {
        switch method {
        case .guardPages: true
        case .inPlace(let dialect): dialect == .convert && afterNoMemory
        }
    }

    /// The page an EAGAIN was about: `error_offset` where the dialect gives one, clamped to the run.
    /// (Dialect 1 names the head of the busy folio, which may lie before the request.)
    func busyPage(_ answer: ConversionAnswer, in run: PageRange) -> Int {
        guard method.dialect != nil else { return run.start }
        let page = answer.errorOffset >> UInt64(pageShift)
        return max(run.start, min(run.end - 1, Int(clamping: page)))
    }
}
