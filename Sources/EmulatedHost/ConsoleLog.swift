// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// The last bytes of a text that goes on.
struct Tail {
    let limit: Int
    private(set) var bytes: [UInt8] = []

    init(limit: Int) {
        self.limit = limit
    }

    mutating func append(_ more: ArraySlice<UInt8>) {
        bytes.append(contentsOf: more.suffix(limit))
        if bytes.count > limit { bytes.removeFirst(bytes.count - limit) }
    }

    /// The lines that have something in them, what a terminal would act upon left out.
    var lines: [String] {
        let printable = bytes.map { $0 == 10 || $0 == 9 || ($0 >= 32 && $0 != 127) ? $0 : UInt8(ascii: " ") }
        return printable.split(separator: 10)
            .map { line in
                let kept = line.drop { $0 == 32 }
                return String(
                    decoding: kept[..<(kept.lastIndex { $0 != 32 }.map { $0 + 1 } ?? kept.startIndex)], as: UTF8.self)
            }
            .filter { !$0.isEmpty }
    }

    /// All of it on one line.
    var line: String { lines.joined(separator: "; ") }
}

/// What the host says on its console, in a file of bounded size: at its limit the file becomes `….1` and a new one is
/// begun. A log that cannot be written to is no reason to end a host: its last lines are in memory too.
struct ConsoleLog: ~Copyable {
    static let limit = 1_048_576

    private let path: String
    private var file: Descriptor?
    private var size = 0
    private(set) var tail = Tail(limit: 4096)

    init(path: String) {
        self.path = path
        Files.remove(path)
        file = try? Descriptor.open(path, .append, permissions: 0o600)
    }

    mutating func append(_ bytes: ArraySlice<UInt8>) {
        tail.append(bytes)
        if size + bytes.count > ConsoleLog.limit {
            try? Files.rename(path, to: "\(path).1")
            file = try? Descriptor.open(path, .append, permissions: 0o600)
            size = 0
        }
        size += bytes.count
        switch file {
        case .some(let file): try? file.writeAll(Array(bytes))
        case .none: break
        }
    }

    /// For a message: the last few lines.
    var lastLines: String {
        let lines = tail.lines.suffix(8)
        return lines.isEmpty ? "it said nothing" : lines.joined(separator: "\n  ")
    }
}
