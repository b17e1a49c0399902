/// Writes JSON objects, one member a line. Foundation's writer would make the tool ten times as large.
struct JSONWriter {
    private(set) var text = ""
    private var depth = 0
    /// Whether the next member of the innermost object or array needs a comma before it.
    private var needsComma = false

    mutating func object(_ body: (inout JSONWriter) -> Void) { nested("{", "}", body) }

    mutating func field(_ name: String, _ value: String?) { member(name, value.map(Self.quoted) ?? "null") }
    mutating func field(_ name: String, _ value: Int) { member(name, "\(value)") }
    mutating func field(_ name: String, _ value: Bool?) { member(name, value.map { "\($0)" } ?? "null") }

    mutating func strings(_ name: String, _ values: [String]) {
        member(name, "[" + values.map(Self.quoted).joined(separator: ", ") + "]")
    }

    /// An array of objects.
    mutating func array<Element>(
        _ name: String, _ elements: [Element], _ body: (inout JSONWriter, Element) -> Void
    ) {
        startMember()
        text += Self.quoted(name) + ": "
        nested("[", "]") { writer in
            for element in elements {
                writer.startMember()
                writer.object { body(&$0, element) }
            }
        }
    }

    private mutating func member(_ name: String, _ value: String) {
        startMember()
        text += Self.quoted(name) + ": " + value
    }

    private mutating func startMember() {
        if needsComma { text += "," }
        needsComma = true
        newLine()
    }

    private mutating func nested(_ open: String, _ close: String, _ body: (inout JSONWriter) -> Void) {
        text += open
        depth += 1
        needsComma = false
        body(&self)
        depth -= 1
        if needsComma { newLine() }
        text += close
        needsComma = true
    }

    private mutating func newLine() { text += "\n" + String(repeating: "  ", count: depth) }

    static func quoted(_ value: String) -> String {
        var result = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
