/// A value at an address of its own, for what is guarded by a lock and looked at on every conversion.
///
/// A stored property of a class would do but for its price: Swift then checks at run time, on every access,
/// that no two overlap, which is what the lock is for. Whoever has the address vouches that the cell lives.
///
/// `@safe`: the memory is the cell's own, from `init` to `deinit`.
@safe
package struct Cell<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    package let address: UnsafeMutablePointer<Value>

    package init(_ value: consuming Value) {
        unsafe address = .allocate(capacity: 1)
        unsafe address.initialize(to: value)
    }

    deinit {
        unsafe address.deinitialize(count: 1)
        unsafe address.deallocate()
    }

    @inline(__always)
    package var value: Value {
        unsafeAddress { unsafe UnsafePointer(address) }
        nonmutating unsafeMutableAddress { unsafe address }
    }
}
