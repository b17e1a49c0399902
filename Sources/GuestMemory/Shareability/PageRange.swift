/// Pages of one file: the index of the first, and how many.
package struct PageRange: BitwiseCopyable, Equatable, Sendable {
    package var start: Int
    package var count: Int

    package init(start: Int, count: Int) {
        self.start = start
        self.count = count
    }

    package var end: Int { start + count }
    package var isEmpty: Bool { count == 0 }

    package func overlaps(_ other: PageRange) -> Bool { start < other.end && other.start < end }
}
