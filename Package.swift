// swift-tools-version: 6.2
import PackageDescription

/// Warnings are errors, and every unsafe construct is spelled `unsafe` where it stands.
let strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]

let package = Package(
    name: "swift-gmem",
    products: [
        .library(name: "GuestMemory", targets: ["GuestMemory"]),
        .executable(name: "gmem-probe", targets: ["gmem-probe"]),
    ],
    targets: [
        // Floor 0: one inline function per system call, own-named copies of the kernel's structures.
        .target(name: "CGmem"),
        // Floors 1 to 4: the library. No dependency but CGmem.
        .target(name: "GuestMemory", dependencies: ["CGmem"], swiftSettings: strict),
        // Touches one byte under a SIGBUS/SIGSEGV handler, for tools and tests: the library installs no handler.
        .target(name: "CTouch"),
        .executableTarget(
            name: "gmem-probe", dependencies: ["GuestMemory", "CGmem", "CTouch"], swiftSettings: strict),
        // The C sequences population is measured against, and a counting malloc.
        .target(name: "CBaseline", path: "Benchmarks/CBaseline"),
        .executableTarget(
            name: "gmem-bench", dependencies: ["GuestMemory", "CGmem", "CBaseline"],
            path: "Benchmarks/gmem-bench", swiftSettings: strict),
        .testTarget(
            name: "GuestMemoryTests", dependencies: ["GuestMemory", "CGmem", "CTouch", "gmem-probe"],
            swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .gnu11
)
