// SPDX-License-Identifier: Apache-2.0

/// Which pair of queues a flow belongs to: the one whose transmit queue had a frame of it last (virtio 1.2 §5.1.6.5.6,
/// automatic receive steering). A flow that the guest has not sent anything of gets a pair by its hash.
///
/// Flows whose hashes meet share an entry: that is no error, since any receive queue is right for any frame.
struct FlowSteering {
    /// As many bytes of a frame as are looked at: Ethernet, the longest header of IPv4, and ports.
    static let window = 14 + 60 + 4
    private static let size = 1024

    /// One more than the pair's number; 0 where nothing is known.
    private var pairs = [UInt8](repeating: 0, count: size)

    mutating func removeAll() {
        for index in pairs.indices { pairs[index] = 0 }
    }

    /// The guest has sent a frame by this pair.
    mutating func note(_ frame: UnsafeRawBufferPointer, pair: Int) {
        guard let flow = unsafe Self.flow(of: frame) else { return }
        pairs[Int(flow) % Self.size] = UInt8(truncatingIfNeeded: pair + 1)
    }

    /// The pair, of the first `count`, that a frame to the guest belongs to.
    func pair(of frame: UnsafeRawBufferPointer, among count: Int) -> Int {
        guard let flow = unsafe Self.flow(of: frame) else { return 0 }
        let known = Int(pairs[Int(flow) % Self.size])
        return known > 0 && known <= count ? known - 1 : Int(flow >> 16) % count
    }

    /// The same number for both directions of a flow: of addresses, ports and protocol. Nil for what is not IP. All
    /// fragments of a packet, of which one alone has ports, go by their addresses.
    static func flow(of frame: UnsafeRawBufferPointer) -> UInt32? {
        guard frame.count >= 34 else { return nil }
        let header = unsafe UnsafeRawBufferPointer(rebasing: frame[14...])
        func word(_ offset: Int) -> UInt64 {
            unsafe UInt64(header.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        let source: UInt64
        let destination: UInt64
        let kind: UInt8
        var ports: Int?
        switch unsafe frame.loadUnaligned(fromByteOffset: 12, as: UInt16.self).bigEndian {
        case 0x0800:
            let length = unsafe Int(header[0] & 15) * 4
            guard length >= 20 else { return nil }
            (source, destination) = (word(12), word(16))
            unsafe kind = header[9]
            // More fragments, or not the first.
            let isWhole = unsafe header.loadUnaligned(fromByteOffset: 6, as: UInt16.self).bigEndian & 0x3fff == 0
            if isWhole { ports = length }
        case 0x86dd:
            guard header.count >= 40 else { return nil }
            source = word(8) ^ word(12) << 8 ^ word(16) << 16 ^ word(20) << 24
            destination = word(24) ^ word(28) << 8 ^ word(32) << 16 ^ word(36) << 24
            unsafe kind = header[6]
            ports = 40
        default: return nil
        }
        var (first, second) = (source, destination)
        // TCP, UDP.
        if let ports, kind == 6 || kind == 17, header.count >= ports + 4 {
            unsafe first ^= UInt64(header.loadUnaligned(fromByteOffset: ports, as: UInt16.self)) << 40
            unsafe second ^= UInt64(header.loadUnaligned(fromByteOffset: ports + 2, as: UInt16.self)) << 40
        }
        return UInt32(truncatingIfNeeded: mix(mix(first) &+ mix(second) &+ UInt64(kind)) >> 32)
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        let product = (value ^ value >> 32) &* 0x9e37_79b9_7f4a_7c15
        return product ^ product >> 29
    }
}
