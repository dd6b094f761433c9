// SPDX-License-Identifier: Apache-2.0

internal import CZstd

/// A zstd stream (RFC 8878) of one frame or several, skippable ones included.
///
/// A frame names the window it needs to be decompressed; up to 128 MiB are granted, as the zstd tool does.
@safe final class ZstdInflater {
    private let context: OpaquePointer  // Owned: from init to deinit.
    private var withinFrame = false

    init() throws(DiskImageError) {
        guard let context = unsafe ZSTD_createDCtx() else {
            throw .compressedData(format: .zstd, offset: 0, problem: "no memory for the decompressor")
        }
        unsafe self.context = unsafe context
    }

    deinit { _ = unsafe ZSTD_freeDCtx(context) }

    /// - Parameter offset: where in the compressed stream `input` starts, for messages.
    func push(_ input: UnsafeRawBufferPointer, at offset: UInt64, to sink: some ByteSink) throws(DiskImageError) {
        var source = unsafe ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var filled = false
        while unsafe source.pos < source.size || (filled && withinFrame) {
            let space = try unsafe sink.space()
            var target = unsafe ZSTD_outBuffer(dst: space.baseAddress, size: space.count, pos: 0)
            let result = unsafe ZSTD_decompressStream(context, &target, &source)
            guard ZSTD_isError(result) == 0 else {
                let name = unsafe String(cString: ZSTD_getErrorName(result))
                throw .compressedData(format: .zstd, offset: offset + UInt64(unsafe source.pos), problem: name)
            }
            withinFrame = result != 0
            filled = unsafe target.pos == target.size
            if unsafe target.pos > 0 { try sink.commit(unsafe target.pos) }
        }
    }

    func finish(at offset: UInt64) throws(DiskImageError) {
        guard !withinFrame else { throw .truncated(what: "its zstd data", offset: offset) }
    }
}
