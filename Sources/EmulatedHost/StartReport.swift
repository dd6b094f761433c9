// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// What the keeper tells whoever started it, over a pipe: lines of progress, then `ready` or why not, then the end.
enum StartReport {
    case progress(String)
    case ready
    case failed(String)

    /// Descriptors that the keeper inherits: the pipe's writing end, and the start lock, which it lets go of when the
    /// host is ready or has failed.
    static let pipeDescriptor: Int32 = 3
    static let lockDescriptor: Int32 = 4

    /// As a line; what is a line's end within becomes a tab and a mark, and is put back by `init(line:)`.
    var line: String {
        switch self {
        case .progress(let text): "p\(StartReport.escape(text))\n"
        case .ready: "r\n"
        case .failed(let text): "e\(StartReport.escape(text))\n"
        }
    }

    init?(line: Substring) {
        let text = StartReport.unescape(line.dropFirst())
        switch line.first {
        case "p": self = .progress(text)
        case "r": self = .ready
        case "e": self = .failed(text)
        default: return nil
        }
    }

    private static func escape(_ text: String) -> String {
        String(decoding: text.utf8.map { $0 == 10 ? 11 : $0 }, as: UTF8.self)
    }

    private static func unescape(_ text: Substring) -> String {
        String(decoding: text.utf8.map { $0 == 11 ? 10 : $0 }, as: UTF8.self)
    }

    /// Reads reports until the host is ready; throws what the keeper says, or that it said nothing.
    static func await(
        on pipe: consuming Descriptor, log: String, progress: (String) -> Void
    ) throws(EmulatedHostError) {
        var text: [UInt8] = []
        var space = [UInt8](repeating: 0, count: 4096)
        while true {
            let raw = pipe.raw
            let count = unsafe space.withUnsafeMutableBytes { buffer in
                retryingInterrupts { unsafe read(raw, buffer.baseAddress, buffer.count) }
            }
            guard count > 0, text.count < 1_048_576 else { break }
            text += space[..<count]
            while let end = text.firstIndex(of: 10) {
                let report = StartReport(line: Substring(decoding: text[..<end], as: UTF8.self))
                text.removeFirst(end + 1)
                switch report {
                case .progress(let what): progress(what)
                case .ready: return
                case .failed(let why): throw .notStarted(why)
                case nil: break
                }
            }
        }
        throw .notStarted("its keeper ended without a word; \(log) may say more")
    }
}
