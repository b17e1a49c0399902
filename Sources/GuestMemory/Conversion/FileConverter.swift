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
            let result = system.madvise(
                hostView + UInt(run.start) << UInt(pageShift), run.count << pageShift,
                state == .shared ? CGMEM_MADV_GUARD_REMOVE : CGMEM_MADV_GUARD_INSTALL)
            return ConversionAnswer(result: result, errorOffset: 0)
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
