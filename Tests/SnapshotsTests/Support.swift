// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Platform
import TestSupport

/// A directory that goes when the test is over.
final class Scratch {
    let path: String

    init() throws {
        path = "/tmp/martlet-snapshots-\(monotonicNanoseconds())"
        try Files.makeDirectory(path, permissions: 0o700)
    }

    deinit { try? Files.removeTree(path) }

    /// Writes a sparse file: pages of bytes at some places of a length.
    func write(_ name: String, length: UInt64, _ parts: [(offset: UInt64, bytes: [UInt8])]) throws -> String {
        let path = "\(path)/\(name)"
        let file = try Descriptor.open(path, .create, permissions: 0o600)
        let raw = file.raw
        for (offset, bytes) in parts { try Self.write(bytes, raw, offset) }
        try file.truncate(to: length)
        return path
    }

    func read(_ name: String) throws -> [UInt8] { try Files.read("\(path)/\(name)", limit: 64 << 20) }
}

extension Scratch {
    func overwrite(_ name: String, at offset: UInt64, _ bytes: [UInt8]) throws {
        let file = try Descriptor.open("\(path)/\(name)", .readWrite)
        try Self.write(bytes, file.raw, offset)
        file.close()
    }

    fileprivate static func write(_ bytes: [UInt8], _ raw: Int32, _ offset: UInt64) throws {
        let count = bytes.withUnsafeBytes { pwrite(raw, $0.baseAddress, $0.count, off_t(offset)) }
        guard count == bytes.count else { throw SystemError("pwrite", code: 5) }
    }
}

/// A file that was made when its format was new (Corpus). What was once written is read for ever.
func corpusFile(_ name: String) throws -> [UInt8] {
    guard let directory = Bundle.module.url(forResource: "Corpus", withExtension: nil) else {
        throw SystemError("open", name, code: ENOENT)
    }
    return Array(try Data(contentsOf: directory.appendingPathComponent(name)))
}
