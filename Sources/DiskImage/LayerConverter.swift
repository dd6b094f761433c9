// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Platform

/// What came of a conversion.
package struct ConvertedLayer: Equatable, Sendable {
    /// Of a layer, the digest of its uncompressed archive, as an image's configuration lists it; of a directory, that of
    /// the image's content. `sha256:` and 64 hexadecimal digits.
    package var diffID: String
    /// The digest of the input as it came, compressed; nil unless asked for.
    package var inputDigest: String?
    package var compression: Compression
    /// Bytes of the input as it came.
    package var inputInBytes: UInt64
    /// Bytes of the uncompressed archive; of a directory, of the data of all its files.
    package var uncompressedInBytes: UInt64
    /// Bytes of the EROFS image, a multiple of 4096.
    package var sizeInBytes: UInt64
    /// Inodes of the image.
    package var inodeCount: Int
}

/// How to convert a layer.
package struct ConversionOptions: Sendable {
    package var limits = ConversionLimits()
    /// Whether the digest of the input is wanted, beside that of the uncompressed archive.
    package var digestsInput = false

    package init() {}
}

/// Makes an EROFS image from a layer (a tar archive, plain or compressed by gzip or zstd) while it arrives.
///
/// Feed it pieces of any size, then finish it. `feed` decompresses on the caller's thread; digest, archive and image are
/// made on a thread of the converter's own. `feed` waits while that thread is behind, so a download that awaits it has
/// back-pressure; it is thus not to be called on an event loop. An error is that of any earlier piece; after an error
/// nothing more can be fed, and what the output holds is of no use.
///
/// The memory needed is bounded whatever the layer's size: a few MiB for buffers, `memoryInBytes` of the limits for the
/// metadata (what is beyond lies in a temporary file beside the output), and the window that a zstd stream asks for.
/// Where that is large the metadata makes do with less, so that both together stay the same.
///
/// The same layer gives the same image, byte for byte. Not for use by two threads at once.
package final class LayerConverter {
    private let pipe = ChunkPipe()
    private let worker: LayerWorker
    private let decompressor = Decompressor()
    private var inputDigester: Digester?
    private var thread: WorkerThread?

    /// - Parameter output: a file that can be written at any place, lent until the converter is gone. What it held
    ///   before is lost.
    package init(output: Int32, options: ConversionOptions = ConversionOptions()) throws(DiskImageError) {
        guard ftruncate(output, 0) == 0 else { throw .system(SystemError("ftruncate", "image")) }
        worker = try LayerWorker(output: output, limits: options.limits)
        inputDigester = options.digestsInput ? Digester() : nil
        let pipe = pipe
        let worker = worker
        thread = try WorkerThread { worker.run(pipe) }
    }

    deinit {
        guard let thread = thread.take() else { return }
        pipe.cancel()
        thread.join()
    }

    /// Takes the next bytes of the layer, as they come from the registry or the file.
    package func feed(_ bytes: UnsafeRawBufferPointer) throws(DiskImageError) {
        guard thread != nil else { throw .alreadyEnded }
        do throws(DiskImageError) {
            unsafe inputDigester?.update(bytes)
            try unsafe decompressor.push(bytes, to: pipe)
        } catch {
            abandon()
            throw error
        }
    }

    /// The layer has ended: the image is completed.
    /// - Returns: what came of it. The output has been written, but not synchronized.
    package func finish() throws(DiskImageError) -> ConvertedLayer {
        guard thread != nil else { throw .alreadyEnded }
        do throws(DiskImageError) { try decompressor.finish(to: pipe) } catch {
            abandon()
            throw error
        }
        pipe.end()
        thread.take()?.join()
        try pipe.checkFailure()
        guard var result = worker.result else { throw .alreadyEnded }
        result.compression = decompressor.format ?? .none
        result.inputInBytes = decompressor.inputInBytes
        result.inputDigest = inputDigester.map { Digester.text($0.finish()) }
        return result
    }

    private func abandon() {
        pipe.cancel()
        thread.take()?.join()
    }

    /// Converts a layer that a descriptor gives, from its position to its end.
    package static func convert(
        from input: borrowing Descriptor, output: Int32, options: ConversionOptions = ConversionOptions()
    ) throws(DiskImageError) -> ConvertedLayer {
        let converter = try LayerConverter(output: output, options: options)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { unsafe buffer.deallocate() }
        while true {
            let transfer: Transfer
            do throws(SystemError) {
                transfer = try unsafe input.read(into: buffer)
            } catch {
                throw .system(error)
            }
            switch transfer {
            case .bytes(let count):
                try unsafe converter.feed(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            case .endOfFile: return try converter.finish()
            case .wouldBlock: throw .system(SystemError("read", "layer", code: EAGAIN))
            }
        }
    }
}

/// The work of a converter's own thread.
///
/// Safe to hand to that thread: the converter looks at it again only after the thread has been joined.
private final class LayerWorker: @unchecked Sendable {
    private let tree: ImageTree
    private let builder: LayerBuilder
    private var reader: TarReader
    private var digester = Digester()
    /// Bytes of the decompressor's window that have been taken off the memory for metadata.
    private var windowInBytes = 0
    private(set) var result: ConvertedLayer?

    init(output: Int32, limits: ConversionLimits) throws(DiskImageError) {
        let blocks = BlockOutput(
            file: output, position: UInt64(Erofs.blockInBytes), maximumInBytes: limits.imageInBytes)
        tree = try ImageTree(limits: limits, output: output)
        builder = LayerBuilder(tree: tree, output: blocks)
        reader = TarReader(limits: limits)
    }

    func run(_ pipe: ChunkPipe) {
        let hasEnded = unsafe pipe.drain { (bytes) throws(DiskImageError) in
            if pipe.windowInBytes > windowInBytes {
                windowInBytes = pipe.windowInBytes
                try tree.pool.limitMemory(to: tree.limits.memory(besideWindow: windowInBytes))
            }
            unsafe digester.update(bytes)
            let span = unsafe bytes.assumingMemoryBound(to: UInt8.self).span
            try reader.push(span, to: builder)
            try builder.output.flush()
        }
        guard hasEnded else { return }
        do throws(DiskImageError) { try complete() } catch { pipe.fail(error) }
    }

    private func complete() throws(DiskImageError) {
        try reader.finish()
        let digest = digester.finish()
        try builder.finish()
        let metadata = try ErofsMetadata(tree)
        var writer = ErofsWriter(metadata, to: builder.output)
        try writer.write(uuid: digest)
        result = ConvertedLayer(
            diffID: Digester.text(digest), inputDigest: nil, compression: .none, inputInBytes: 0,
            uncompressedInBytes: reader.offset, sizeInBytes: builder.output.position,
            inodeCount: metadata.inodeCount)
    }
}
