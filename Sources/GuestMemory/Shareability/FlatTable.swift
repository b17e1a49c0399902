/// One level of the page table: entries side by side in memory that a `ShareabilityMap` owns.
///
/// `@safe`: a table lives inside the map that owns its memory and never leaves it, and the map checks every
/// page number it is given, so every index below is one of the table. Debug builds check that too.
@safe
struct FlatTable<Entry: BitwiseCopyable>: BitwiseCopyable {
    private let base: UnsafeMutablePointer<Entry>
    private let count: Int

    /// `count` entries at `offset`, which is a multiple of the entry's alignment.
    init(in memory: borrowing ZeroedMemory, at offset: Int, count: Int) {
        precondition(offset + count * MemoryLayout<Entry>.stride <= memory.count)
        // SAFETY: inside the memory, as just checked, and used as nothing else.
        unsafe base = (memory.base + offset).bindMemory(to: Entry.self, capacity: count)
        self.count = count
    }

    @inline(__always)
    subscript(index: Int) -> Entry {
        get {
            assert(index >= 0 && index < count)
            // SAFETY: the map derives the index from a page number that it has checked.
            return unsafe base[index]
        }
        nonmutating set {
            assert(index >= 0 && index < count)
            // SAFETY: as above.
            unsafe base[index] = newValue
        }
    }

    /// Stores the same entry `count` times from `start` on.
    @inline(__always)
    func fill(from start: Int, count: Int, with entry: Entry) {
        assert(start >= 0 && count >= 0 && start + count <= self.count)
        // SAFETY: as above.
        unsafe (base + start).update(repeating: entry, count: count)
    }
}
