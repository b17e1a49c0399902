import CGmem

/// A mutual-exclusion lock around short, non-blocking work. Never held over a hook, a sleep or a system
/// call that can block.
///
/// pthread's, because `Mutex` does not exist in Embedded Swift and costs three times as much.
///
/// `@safe`: the pointer is made in `init`, freed in `deinit`, and never leaves.
@safe
package struct Lock: ~Copyable, @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<cgmem_mutex>

    package init() {
        // A mutex must not move, so it lives in memory of its own.
        unsafe mutex = .allocate(capacity: 1)
        unsafe cgmem_mutex_init(mutex)
    }

    deinit {
        unsafe cgmem_mutex_destroy(mutex)
        unsafe mutex.deallocate()
    }

    package func lock() { unsafe cgmem_mutex_lock(mutex) }
    package func unlock() { unsafe cgmem_mutex_unlock(mutex) }

    @inline(__always)
    package func withLock<Result: ~Copyable, Failure: Error>(
        _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        lock()
        defer { unlock() }
        return try body()
    }
}
