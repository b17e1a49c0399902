import CGmem

/// Threads that take pieces of work by number until there are none left, or one fails.
final class WorkerTeam: @unchecked Sendable {
    private let count: Int
    private let work: @Sendable (Int) throws(GuestMemoryError) -> Void
    private let lock = Lock()
    private var next = 0
    private var failure: GuestMemoryError?

    /// `count` pieces of work, numbered from 0.
    init(count: Int, work: @escaping @Sendable (Int) throws(GuestMemoryError) -> Void) {
        self.count = count
        self.work = work
    }

    /// Does all of the work on `threads` threads, the calling one among them, and returns when every one
    /// of them has stopped. `afterEach` is called on the calling thread, outside every lock, after each of
    /// its pieces and at the end; it stops the team by throwing.
    func run(threads: Int, afterEach: () throws(GuestMemoryError) -> Void) throws(GuestMemoryError) {
        let helpers = max(0, min(threads, count) - 1)
        // SAFETY: the structures stay where they are until every thread is joined, and so does self.
        let handles = UnsafeMutablePointer<cgmem_thread>.allocate(capacity: max(1, helpers))
        defer { unsafe handles.deallocate() }
        var started = 0
        while started < helpers {
            unsafe (handles + started).initialize(to: cgmem_thread())
            let context = unsafe Unmanaged.passUnretained(self).toOpaque()
            let body: cgmem_thread_body = { context in
                unsafe Unmanaged<WorkerTeam>.fromOpaque(context!).takeUnretainedValue().takeWork()
            }
            // A process at its limit of threads does the work with those it got.
            if unsafe cgmem_thread_start(handles + started, body, context) != 0 { break }
            started += 1
        }
        takeWork(afterEach: afterEach)
        for index in 0..<started { unsafe cgmem_thread_join(handles + index) }
        if let failure { throw failure }
        // The others may have finished after the calling thread's last piece.
        try afterEach()
    }

    private func takeWork() { takeWork { () throws(GuestMemoryError) in } }

    private func takeWork(afterEach: () throws(GuestMemoryError) -> Void) {
        while true {
            let piece: Int? = lock.withLock {
                if failure != nil || next >= count { return nil }
                next += 1
                return next - 1
            }
            guard let piece else { return }
            do throws(GuestMemoryError) {
                try work(piece)
                try afterEach()
            } catch {
                lock.withLock { if failure == nil { failure = error } }
                return
            }
        }
    }
}

/// Bytes done so far, counted by all of a team's threads.
final class ProgressCounter: Sendable {
    private let bytes = Cell(UInt64(0))

    // SAFETY: the cell lives as long as we do, and both are atomic.
    func add(_ count: UInt64) { _ = unsafe cgmem_fetch_add64(bytes.address, count) }
    var value: UInt64 { unsafe cgmem_fetch_add64(bytes.address, 0) }
}
