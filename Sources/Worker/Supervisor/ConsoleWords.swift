// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What the end of a machine's console adds to the reason why the machine ended. The guest writes there what it likes.
struct ConsoleWords {
    /// How much of the console's end is looked at, in bytes; a guest may have written much.
    static let limit = 65_536

    private let lines: [Substring]

    init(_ bytes: [UInt8]) {
        lines = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline)
            .filter { !$0.contains("reboot: ") }
    }

    /// Empty, or to be put behind the reason: of a kernel that panicked why it did, and what went wrong before that; else what
    /// init, or the kernel, said last.
    var text: String {
        if let panic = lines.lastIndex(where: { $0.contains("Kernel panic") }) {
            let trouble = lines[..<panic].first { line in Self.troubles.contains { line.contains($0) } }
            return ": " + printable(Array(lines[panic].utf8))
                + (trouble.map { "; before that: \(Self.printed($0))" } ?? "")
        }
        let line = lines.last { $0.contains(Self.fromInit) } ?? lines.last
        return line.map { "; the last that its console says is: \(Self.printed($0))" } ?? ""
    }

    private static let fromInit = "martlet-init: "
    /// With what lines begin by which Linux reports a failure of its own.
    private static let troubles = [
        "BUG: ", "Oops: ", "general protection fault", "traps: ", "segfault at", "Out of memory", fromInit,
    ]

    private static func printed(_ line: Substring) -> String { printable(Array(line.utf8), limit: 200) }
}
