/// Measurements of one thing, made in one run.
struct Samples {
    let sorted: [Double]

    /// At least one sample.
    init(_ values: [Double]) {
        precondition(!values.isEmpty, "no samples")
        sorted = values.sorted()
    }

    var min: Double { sorted[0] }

    var median: Double {
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// What a median is held against. It is printed beside the figure; only `--check` makes it count.
enum Target {
    case atMost(Double)
    case atLeast(Double)

    func isMet(by value: Double) -> Bool {
        switch self {
        case .atMost(let limit): value <= limit
        case .atLeast(let limit): value >= limit
        }
    }
}

/// A number with a given count of decimals. Foundation would be the only reason to link Foundation.
func decimal(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let scaled = (value.magnitude * scale).rounded()
    guard scaled < 9e18 else { return "\(value)" }
    let whole = Int(scaled)
    let sign = value < 0 && whole > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(whole)" }
    let unit = Int(scale)
    let fraction = "\(whole % unit)"
    return "\(sign)\(whole / unit)." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// A number with three significant digits, and all of those before the point.
func short(_ value: Double) -> String {
    switch value.magnitude {
    case ..<10: decimal(value, 2)
    case ..<100: decimal(value, 1)
    default: decimal(value, 0)
    }
}
