/// The runs that one request has converted so far, in order: what to undo, or to report.
///
/// The first eight stand in the value itself, so that conversions of the usual one to a few runs
/// allocate nothing.
package struct RunJournal {
    package struct Entry {
        /// Index of the region.
        package var region: Int
        /// Pages of the region's file.
        package var run: PageRange

        package init(region: Int, run: PageRange) {
            self.region = region
            self.run = run
        }
    }

    private var inline = InlineArray<8, Entry>(
        repeating: Entry(region: 0, run: PageRange(start: 0, count: 0)))
    private var spilled: [Entry] = []
    package private(set) var count = 0

    package init() {}

    package mutating func append(_ entry: Entry) {
        if count < 8 { inline[count] = entry } else { spilled.append(entry) }
        count += 1
    }

    package subscript(index: Int) -> Entry { index < 8 ? inline[index] : spilled[index - 8] }
}
