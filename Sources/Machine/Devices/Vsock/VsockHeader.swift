// SPDX-License-Identifier: Apache-2.0

/// The header of every packet on a socket device's queues (virtio 1.2 §5.10.6).
struct VsockHeader: Equatable, Sendable {
    /// In bytes.
    static let size = 44
    static let hostCID: UInt64 = 2
    static let streamType: UInt16 = 1

    enum Operation {
        static let request: UInt16 = 1
        static let response: UInt16 = 2
        static let reset: UInt16 = 3
        static let shutdown: UInt16 = 4
        static let data: UInt16 = 5
        static let creditUpdate: UInt16 = 6
        static let creditRequest: UInt16 = 7
    }

    /// Flags of a shutdown.
    enum Shutdown {
        /// The sender will receive no more.
        static let receive: UInt32 = 1
        /// The sender will send no more.
        static let send: UInt32 = 2
    }

    var sourceCID: UInt64 = 0
    var destinationCID: UInt64 = 0
    var sourcePort: UInt32 = 0
    var destinationPort: UInt32 = 0
    /// Bytes of data after the header.
    var count: UInt32 = 0
    var type: UInt16 = Self.streamType
    var operation: UInt16 = 0
    var flags: UInt32 = 0
    /// The sender's whole buffer for this stream, in bytes (buf_alloc).
    var bufferSize: UInt32 = 0
    /// How many bytes the sender's buffer has passed on, since the beginning, modulo 2³² (fwd_cnt).
    var forwarded: UInt32 = 0

    init() {}

    /// Takes the header apart; `bytes` has at least 44.
    init(_ bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count >= Self.size)
        unsafe sourceCID = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        unsafe destinationCID = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        unsafe sourcePort = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
        unsafe destinationPort = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 20, as: UInt32.self))
        unsafe count = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
        unsafe type = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 28, as: UInt16.self))
        unsafe operation = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 30, as: UInt16.self))
        unsafe flags = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 32, as: UInt32.self))
        unsafe bufferSize = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 36, as: UInt32.self))
        unsafe forwarded = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 40, as: UInt32.self))
    }

    /// Writes the header; `bytes` has at least 44.
    func store(into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.size)
        unsafe bytes.storeBytes(of: sourceCID.littleEndian, toByteOffset: 0, as: UInt64.self)
        unsafe bytes.storeBytes(of: destinationCID.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe bytes.storeBytes(of: sourcePort.littleEndian, toByteOffset: 16, as: UInt32.self)
        unsafe bytes.storeBytes(of: destinationPort.littleEndian, toByteOffset: 20, as: UInt32.self)
        unsafe bytes.storeBytes(of: count.littleEndian, toByteOffset: 24, as: UInt32.self)
        unsafe bytes.storeBytes(of: type.littleEndian, toByteOffset: 28, as: UInt16.self)
        unsafe bytes.storeBytes(of: operation.littleEndian, toByteOffset: 30, as: UInt16.self)
        unsafe bytes.storeBytes(of: flags.littleEndian, toByteOffset: 32, as: UInt32.self)
        unsafe bytes.storeBytes(of: bufferSize.littleEndian, toByteOffset: 36, as: UInt32.self)
        unsafe bytes.storeBytes(of: forwarded.littleEndian, toByteOffset: 40, as: UInt32.self)
    }
}
