// SPDX-License-Identifier: Apache-2.0

import GuestProtocol
import TestSupport

extension SeededGenerator {
    mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self) }

    mutating func bytes(_ count: ClosedRange<Int>) -> [UInt8] {
        (0..<number(count)).map { _ in UInt8(truncatingIfNeeded: next()) }
    }

    /// The bytes with a few of them changed, taken out, put in, or repeated.
    mutating func mutated(_ bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<number(1...8) where !bytes.isEmpty {
            let index = Int.random(in: bytes.indices, using: &self)
            switch next() % 5 {
            case 0: bytes[index] = UInt8(truncatingIfNeeded: next())
            case 1: bytes[index] = [0, 1, 0x7f, 0x80, 0xff][number(0...4)]
            case 2: bytes.remove(at: index)
            case 3: bytes.insert(UInt8(truncatingIfNeeded: next()), at: index)
            default: bytes.append(contentsOf: bytes[index...].prefix(64))
            }
        }
        return bytes
    }
}

extension FrameDecoder {
    mutating func append(_ bytes: some Collection<UInt8>) {
        Array(bytes).withUnsafeBytes { append($0) }
    }

    /// All frames that are whole.
    mutating func frames() -> [Frame] {
        var frames: [Frame] = []
        while let frame = next() { frames.append(frame) }
        return frames
    }
}
