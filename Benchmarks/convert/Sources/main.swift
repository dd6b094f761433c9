// SPDX-License-Identifier: Apache-2.0
//
// What Benchmarks/convert/run measures: the conversion alone, without the image store around it.

import DiskImage
import Glibc
import Platform

let arguments = Array(CommandLine.arguments.dropFirst())
let usage = """
    usage: convert-layer layer FILE OUT        a layer's archive to EROFS
           convert-layer directory DIR OUT     a directory tree to EROFS
           convert-layer merge OUT LAYER…      the metadata image over layers' images

    """

func say(_ text: String) {
    _ = text.withCString { write(2, $0, strlen($0)) }
}

func fail(_ text: String) -> Never {
    say("convert-layer: \(text)\n")
    exit(1)
}

/// Peak resident memory of this process so far, in KiB.
func peakInKiB() -> Int {
    var usage = rusage()
    getrusage(0, &usage)  // RUSAGE_SELF
    return usage.ru_maxrss
}

func report(_ layer: ConvertedLayer) {
    print(
        """
        diff-id \(layer.diffID)
        input-bytes \(layer.inputInBytes)
        uncompressed-bytes \(layer.uncompressedInBytes)
        image-bytes \(layer.sizeInBytes)
        inodes \(layer.inodeCount)
        peak-rss-kib \(peakInKiB())
        """)
}

do {
    switch (arguments.first, arguments.count) {
    case ("layer", 3):
        let input = try Descriptor.open(arguments[1], .readOnly)
        let output = try Descriptor.open(arguments[2], .create)
        report(try LayerConverter.convert(from: input, output: output.raw))
    case ("directory", 3):
        let output = try Descriptor.open(arguments[2], .create)
        report(try DirectoryConverter.convert(path: arguments[1], output: output.raw))
    case ("merge", 3...):
        let output = try Descriptor.open(arguments[1], .create)
        var layers: [Int32] = []
        for path in arguments[2...] { layers.append(try Descriptor.open(path, .readOnly).release()) }
        let start = monotonicNanoseconds()
        let merged = try ImageMerger.merge(layers: layers, output: output.raw)
        let microseconds = (monotonicNanoseconds() - start) / 1000
        print(
            """
            metadata-bytes \(merged.metadataInBytes)
            total-bytes \(merged.totalInBytes)
            inodes \(merged.inodeCount)
            microseconds \(microseconds)
            peak-rss-kib \(peakInKiB())
            """)
    default:
        say(usage)
        exit(2)
    }
} catch {
    fail("\(error)")
}
