/// Who holds pages, as far as this kernel is told: the emulated counterpart of a folio's reference count.
struct PageReferences {
    private struct Reference {
        var id: UInt64
        var file: UInt64
        var pages: PageRange
        /// How many more attempts it refuses; nil until it is removed.
        var refusals: Int?
    }

    private var held: [Reference] = []
    private var lastID: UInt64 = 0
    var spontaneousOneIn: UInt32 = 0
    private var random: SeededRandom

    init(seed: UInt64) { random = SeededRandom(seed: seed) }

    mutating func add(file: UInt64, _ pages: PageRange, refusals: Int?) -> UInt64 {
        lastID += 1
        held.append(Reference(id: lastID, file: file, pages: pages, refusals: refusals))
        return lastID
    }

    mutating func remove(_ id: UInt64) {
        held.removeAll { $0.id == id }
    }

    /// The file is gone: its references hold nothing that could be converted.
    mutating func forget(file: UInt64) {
        held.removeAll { $0.file == file }
    }

    /// Whether no page of any file is held or will be.
    var isIdle: Bool { held.isEmpty && spontaneousOneIn == 0 }

    /// The first page of `pages` that somebody holds, as the kernel's ascending scan finds it.
    func firstHeld(file: UInt64, _ pages: PageRange) -> Int? {
        var busy: Int?
        for reference in held where reference.file == file && reference.pages.overlaps(pages) {
            busy = min(busy ?? Int.max, max(reference.pages.start, pages.start))
        }
        return busy
    }

    /// Now and then, some page of `pages`.
    mutating func spontaneous(_ pages: PageRange) -> Int? {
        if spontaneousOneIn == 0 || random.next() % UInt64(spontaneousOneIn) != 0 { return nil }
        return pages.start + Int(random.next() % UInt64(pages.count))
    }

    /// A refusal brings every transient reference in the way closer to its end, not only the one that is
    /// reported: they all had the same time to go away.
    mutating func age(file: UInt64, _ pages: PageRange) {
        for index in held.indices where held[index].file == file && held[index].pages.overlaps(pages) {
            if let refusals = held[index].refusals { held[index].refusals = refusals - 1 }
        }
        held.removeAll { $0.refusals == 0 }
    }
}
