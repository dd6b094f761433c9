// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What came of a merge: an image that describes the union of its layers and whose data lies in them.
package struct MergedImage: Equatable, Sendable {
    /// Bytes of the metadata image, which is the device's first segment; a multiple of 4096.
    package var metadataInBytes: UInt64
    /// Bytes of each layer's image, in their order: the segments that follow.
    package var layersInBytes: [UInt64]
    package var inodeCount: Int

    /// Bytes of the whole device.
    package var totalInBytes: UInt64 { layersInBytes.reduce(metadataInBytes, +) }
}

/// Merges the images of layers into one, as overlayfs would show them, without touching their data.
///
/// The guest gets one block device: the metadata image that this writes, and after it the layers' images as they are.
/// Layers are thus shared between images, on disk and in the page cache, and an image of 127 layers is mounted as fast
/// as one of three. Upper layers come after lower ones. Whiteouts and opaque marks are applied and then gone; attributes
/// of a directory are those of the highest layer that has an entry for it; hard links hold within a layer.
package enum ImageMerger {
    /// - Parameters:
    ///   - layers: images that `LayerConverter` or `DirectoryConverter` made, lowest first; lent.
    ///   - output: a file that can be written at any place; what it held before is lost.
    package static func merge(
        layers: [Int32], output: Int32, limits: ConversionLimits = .ofMerge
    ) throws(DiskImageError) -> MergedImage {
        var segments: [ImageSegment] = []
        for layer in layers {
            segments.append(ImageSegment(file: layer, lengthInBytes: try fileSize(layer)))
        }
        return try merge(segments, output: output, limits: limits)
    }

    static func merge(
        _ layers: [ImageSegment], output: Int32, limits: ConversionLimits
    ) throws(DiskImageError) -> MergedImage {
        guard layers.count <= Int(UInt16.max) else {
            throw .limit(entry: "image", limit: .entries, maximum: UInt64(UInt16.max))
        }
        let tree = try ImageTree(limits: limits, output: output)
        var union = LayerUnion(tree)
        var identity = Digester()
        var sizes: [UInt64] = []
        for (index, layer) in layers.enumerated() {
            let reader = try ErofsReader(segments: [layer])
            try union.apply(reader, layer: UInt16(index))
            sizes.append(UInt64(reader.blockCount) * UInt64(Erofs.blockInBytes))
            let uuid = reader.uuid
            identity.update(uuid.span)
        }
        let metadata = try ErofsMetadata(tree)
        var bases: [UInt32] = []
        var next = 1 + metadata.blockCount
        for size in sizes {
            guard next < UInt64(UInt32.max) else { break }  // the writer finds the whole too large
            bases.append(UInt32(next))
            next += size / UInt64(Erofs.blockInBytes)
        }
        let blocks = BlockOutput(
            file: output, position: UInt64(Erofs.blockInBytes), maximumInBytes: limits.imageInBytes)
        var writer = ErofsWriter(metadata, to: blocks, layerBases: bases)
        let trailing = sizes.reduce(0) { $0 + $1 / UInt64(Erofs.blockInBytes) }
        try writer.write(trailingBlocks: trailing, uuid: identity.finish())
        return MergedImage(
            metadataInBytes: blocks.position, layersInBytes: sizes, inodeCount: metadata.inodeCount)
    }
}
