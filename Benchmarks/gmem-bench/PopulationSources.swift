import CBaseline

/// The bytes to populate from: in memory, in a page-cached file, and as an image with many zero pages.
///
/// `@safe`: the memory is made in `init`, freed in `deinit`, and read-only in between. A pointer taken from here
/// is good as long as the object, and asking for one is marked where it happens.
@safe
final class PopulationSources {
    private var made: cbaseline_sources
    /// Bytes in each of the three.
    let size: Int

    /// The C side's name for it.
    var raw: cbaseline_sources { unsafe made }
    /// No page of it is zero.
    var memory: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: made.memory, count: size) }
    /// A file without a name, with the same bytes as `memory`.
    var file: Int32 { unsafe made.file }
    /// Three quarters of its pages are zero, in scattered runs of 1 to 64 pages and more.
    var sparse: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: made.sparse, count: size) }

    struct Failure: Error {
        let errno: Int
    }

    /// Takes seconds: twice `size` of memory, and `size` in a file in /tmp.
    init(size: Int) throws(Failure) {
        var made = unsafe cbaseline_sources()
        let answer = unsafe cbaseline_sources_create(&made, size, "/tmp")
        guard answer == 0 else { throw Failure(errno: -Int(answer)) }
        unsafe self.made = made
        self.size = size
    }

    deinit { unsafe cbaseline_sources_destroy(&made) }

    /// Whether a file (a guest_memfd, or a memfd of the emulator) holds what this source should have left there.
    /// Allocates what was not.
    func verify(_ descriptor: Int32, _ source: PopulationCase.Source) -> Bool {
        unsafe cbaseline_verify(descriptor, &made, source.kind) == 1
    }
}
