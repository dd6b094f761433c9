// SPDX-License-Identifier: Apache-2.0

/// Makes one capture of several that go on at the same time (draft-ietf-opsawg-pcapng §4): one section, with one
/// interface for each of them, whatever interfaces they have themselves. Frames come in the order in which they are
/// handed in; each keeps the time at which it was seen.
package struct PCAPNGMerge: Sendable {
    private var sources: [PCAPNGBlocks]
    /// The file's beginning, to be written before all else.
    package let head: [UInt8]

    private static let framePacket: UInt32 = 6

    /// - Parameter interfaces: one for each capture: its name, and what it leads to.
    package init(application: String, interfaces: [(name: String, description: String)]) {
        sources = interfaces.map { _ in PCAPNGBlocks() }
        head = interfaces.reduce(into: PCAPNG.begin(application: application)) { head, interface in
            head += PCAPNG.interface(
                name: interface.name, description: interface.description, lengthLimit: PCAPNG.frameLimit)
        }
    }

    /// How many frames were handed out.
    package var frames: UInt64 { sources.reduce(0) { $0 + $1.frames } }

    /// Bytes of one of the captures, as they come.
    /// - Returns: what is to be written of them, which ends with a whole block; nil where they are no capture.
    package mutating func append(_ bytes: ArraySlice<UInt8>, from source: Int) -> [UInt8]? {
        guard let whole = sources[source].append(bytes) else { return nil }
        var result: [UInt8] = []
        var start = 0
        while start < whole.count {
            let length = Int(PCAPNG.word(whole, at: start + 4))
            if PCAPNG.word(whole, at: start) == Self.framePacket {
                // Type, length, interface: a frame's block has 32 bytes at least.
                guard length >= 32 else { return nil }
                result += whole[start..<start + 8]
                result += PCAPNG.little(UInt32(source))
                result += whole[start + 12..<start + length]
            }
            start += length
        }
        return result
    }
}
