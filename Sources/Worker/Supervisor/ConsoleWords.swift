// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What the end of a machine's console adds to the reason why the machine ended. The guest writes there what it likes.
struct ConsoleWords {
    /// How much of the console's end is looked at, in bytes: a kernel that fails tells its registers and who called whom.
    static let limit = 16_384

    private let lines: [Substring]

    init(_ bytes: [UInt8]) {
        lines = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline)
            .filter { !$0.contains("reboot: ") }
    }

    /// Empty, or to be put behind the reason: of a kernel that panicked, which says why in the reason, what went wrong before
    /// that; else what init, or the kernel, said last.
    var text: String {
        if let panic = lines.firstIndex(where: { $0.contains("Kernel panic") }) {
            let trouble = lines[..<panic].first { line in Self.troubles.contains { line.contains($0) } }
            return trouble.map { "; before that: \(Self.printed($0))" } ?? ""
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
