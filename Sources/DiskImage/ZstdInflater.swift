// SPDX-License-Identifier: Apache-2.0

internal import CZstd

/// A zstd stream (RFC 8878) of one frame or several, skippable ones included.
///
/// A frame names the window that its decompressor must keep. What builders of images write asks for 8 MiB at most; 32 MiB
/// are granted, and what asks for more (`zstd --long`, `zstd --ultra -22`) is refused before any memory is taken.
@safe final class ZstdInflater {
    static let maximumWindowLog = 25
    /// What a conversion's memory is planned for.
    static let usualWindowInBytes = 8 << 20

    private let context: OpaquePointer  // Owned: from init to deinit.
    private var withinFrame = false
    private var header = ZstdFrameHeader()

    init() throws(DiskImageError) {
        guard let context = unsafe ZSTD_createDCtx() else {
            throw .compressedData(format: .zstd, offset: 0, problem: "no memory for the decompressor")
        }
        unsafe self.context = unsafe context
        _ = unsafe ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, Int32(Self.maximumWindowLog))
    }

    deinit { _ = unsafe ZSTD_freeDCtx(context) }

    /// - Parameter offset: where in the compressed stream `input` starts, for messages.
    func push(_ input: UnsafeRawBufferPointer, at offset: UInt64, to sink: some ByteSink) throws(DiskImageError) {
        var source = unsafe ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var filled = false
        while unsafe source.pos < source.size || (filled && withinFrame) {
            if !header.isComplete {
                // The first bytes of a frame, which name its window.
                var position = unsafe source.pos
                while !header.isComplete && position < input.count {
                    unsafe header.take(input[position])
                    position += 1
                }
                if let window = header.windowInBytes { try grant(window, at: offset + UInt64(unsafe source.pos), sink) }
            }
            let space = try unsafe sink.space()
            var target = unsafe ZSTD_outBuffer(dst: space.baseAddress, size: space.count, pos: 0)
            let result = unsafe ZSTD_decompressStream(context, &target, &source)
            guard ZSTD_isError(result) == 0 else {
                let name = unsafe String(cString: ZSTD_getErrorName(result))
                throw .compressedData(format: .zstd, offset: offset + UInt64(unsafe source.pos), problem: name)
            }
            withinFrame = result != 0
            if !withinFrame { header = ZstdFrameHeader() }
            filled = unsafe target.pos == target.size
            if unsafe target.pos > 0 { try sink.commit(unsafe target.pos) }
        }
    }

    func finish(at offset: UInt64) throws(DiskImageError) {
        guard !withinFrame else { throw .truncated(what: "its zstd data", offset: offset) }
    }

    private func grant(_ window: UInt64, at offset: UInt64, _ sink: some ByteSink) throws(DiskImageError) {
        guard window <= 1 << UInt64(Self.maximumWindowLog) else {
            throw .zstdWindow(wantedInBytes: window, maximumInBytes: 1 << UInt64(Self.maximumWindowLog))
        }
        sink.willUse(windowInBytes: Int(window))
    }
}

/// The part of a frame's header that says how large a window the frame wants (RFC 8878, 3.1.1.1).
struct ZstdFrameHeader {
    private var bytes: [UInt8] = []
    /// Bytes until the window is known: at most the magic number, the descriptor and eight bytes of the content's size.
    private var wanted = 5
    private(set) var isComplete = false
    /// Known when the header is complete; nil for a frame that is skipped.
    private(set) var windowInBytes: UInt64?

    private static let magic: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD]

    mutating func take(_ byte: UInt8) {
        bytes.append(byte)
        guard bytes.count == wanted else { return }
        guard bytes.starts(with: Self.magic) else {
            isComplete = true
            return
        }
        let descriptor = bytes[4]
        let isSingleSegment = descriptor & 0x20 != 0
        let sizeInBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][Int(descriptor >> 6)]
        let dictionaryInBytes = [0, 1, 2, 4][Int(descriptor & 3)]
        let whole = isSingleSegment ? 5 + dictionaryInBytes + sizeInBytes : 6
        guard bytes.count == whole else {
            wanted = whole
            return
        }
        isComplete = true
        if isSingleSegment {
            var size: UInt64 = 0
            for byte in bytes[(5 + dictionaryInBytes)...].reversed() { size = size << 8 | UInt64(byte) }
            // Two bytes count from 256 on.
            windowInBytes = sizeInBytes == 2 ? size + 256 : size
        } else {
            let base = UInt64(1) << (10 + UInt64(bytes[5] >> 3))
            windowInBytes = base + base / 8 * UInt64(bytes[5] & 7)
        }
    }
}
