// SPDX-License-Identifier: Apache-2.0

internal import Virtio

/// Request types and status values (virtio 1.2 §5.2.6).
enum BlockRequestType {
    static let read: UInt32 = 0
    static let write: UInt32 = 1
    static let flush: UInt32 = 4
    static let getID: UInt32 = 8
    static let discard: UInt32 = 11
    static let writeZeroes: UInt32 = 13
}

enum BlockStatus {
    static let ok: UInt8 = 0
    static let ioError: UInt8 = 1
    static let unsupported: UInt8 = 2
}

/// One request of the driver's, from its chain to its status. There are as many as were ever in flight at once, used
/// again and again.
///
/// Belongs to the loop's thread, or to a worker between `submit` and the return through `BlockCompletions`.
@safe final class BlockRequest: WorkItem, @unchecked Sendable {
    let chain: DescriptorChain
    private let backend: BlockBackend
    private let completions: BlockCompletions

    private(set) var type: UInt32 = 0
    /// The data part of the chain that is not moved yet.
    var data = BufferCursor()
    /// Where on the disk that goes.
    var offset: UInt64 = 0
    /// In bytes, as the chain came.
    private(set) var dataCount = 0
    private(set) var outcome = BlockBackend.Outcome.done
    private var statusByte: UnsafeMutablePointer<UInt8>?

    init(backend: BlockBackend, completions: BlockCompletions, chainCapacity: Int) {
        self.backend = backend
        self.completions = completions
        chain = DescriptorChain(capacity: chainCapacity)
    }

    /// What came of looking at a chain.
    enum Parsed {
        case request
        /// It ends here, with this status.
        case refused(UInt8)
        /// There is not even a place for a status.
        case unanswerable
    }

    /// Takes the chain apart: header, data, status byte. The driver may cut them into buffers as it likes (§2.7.4).
    func parse() -> Parsed {
        unsafe statusByte = nil
        type = 0
        dataCount = 0
        outcome = .done
        var header: (type: UInt32, reserved: UInt32, sector: UInt64) = (0, 0, 0)
        let count = unsafe withUnsafeMutableBytes(of: &header) { unsafe chain.readable.copy(into: $0) }
        guard count == 16, let byte = unsafe chain.writable.removeLastByte() else { return .unanswerable }
        unsafe statusByte = unsafe byte
        type = UInt32(littleEndian: header.type)
        switch type {
        case BlockRequestType.read, BlockRequestType.getID: data = chain.writable
        case BlockRequestType.write, BlockRequestType.discard, BlockRequestType.writeZeroes: data = chain.readable
        case BlockRequestType.flush: return .request
        default: return .refused(BlockStatus.unsupported)
        }
        dataCount = data.byteCount
        guard type == BlockRequestType.read || type == BlockRequestType.write else { return .request }
        let (start, overflow) = UInt64(littleEndian: header.sector).multipliedReportingOverflow(
            by: BlockBackend.sectorSize)
        guard !overflow, contains(start, count: UInt64(dataCount)), dataCount % Int(BlockBackend.sectorSize) == 0
        else { return .refused(BlockStatus.ioError) }
        offset = start
        return .request
    }

    /// How many bytes it moves from the disk or to it; as it was parsed.
    var transferCount: Int {
        type == BlockRequestType.read || type == BlockRequestType.write ? dataCount : 0
    }

    private func contains(_ start: UInt64, count: UInt64) -> Bool {
        start <= backend.byteCount && count <= backend.byteCount - start
    }

    /// Writes the status; gives the number of bytes the driver is told were written.
    func finish(_ status: UInt8) -> Int {
        if let statusByte = unsafe statusByte { unsafe statusByte.pointee = status }
        unsafe statusByte = nil
        guard type == BlockRequestType.read || type == BlockRequestType.getID else { return 1 }
        return dataCount - data.byteCount + 1
    }

    /// Waits for the disk, on a worker's thread.
    override func perform() {
        switch type {
        case BlockRequestType.read: outcome = backend.read(&data, at: &offset, waiting: true)
        case BlockRequestType.write: outcome = backend.write(&data, at: &offset)
        case BlockRequestType.flush: outcome = backend.flush()
        case BlockRequestType.discard, BlockRequestType.writeZeroes: outcome = performRanges()
        default: break
        }
        completions.append(self)
    }

    /// Discards or zeroes the ranges that the data names: sector, count and flags each (§5.2.6.2).
    private func performRanges() -> BlockBackend.Outcome {
        guard dataCount > 0, dataCount % 16 == 0, dataCount / 16 <= BlockDevice.rangeLimit else { return .failed(22) }
        while data.byteCount > 0 {
            var range: (sector: UInt64, count: UInt32, flags: UInt32) = (0, 0, 0)
            _ = unsafe withUnsafeMutableBytes(of: &range) { unsafe data.copy(into: $0) }
            let (start, overflow) = UInt64(littleEndian: range.sector).multipliedReportingOverflow(
                by: BlockBackend.sectorSize)
            let sectors = UInt32(littleEndian: range.count)
            let flags = UInt32(littleEndian: range.flags)
            let count = UInt64(sectors) * BlockBackend.sectorSize
            guard !overflow, sectors <= BlockDevice.rangeSectorLimit, contains(start, count: count) else {
                return .failed(22)
            }
            // Bit 0, unmap, is for write zeroes only; there are no others.
            guard flags & ~1 == 0, flags == 0 || type == BlockRequestType.writeZeroes else { return .failed(22) }
            guard count > 0 else { continue }
            let outcome =
                type == BlockRequestType.discard
                ? backend.discard(start, count: count)
                : backend.writeZeroes(start, count: count, mayDiscard: flags & 1 != 0)
            guard outcome == .done else { return outcome }
        }
        return .done
    }
}
