// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// A file, or a part of it, that is a piece of a block device.
package struct ImageSegment: Equatable, Sendable {
    /// Lent; whoever made the segment keeps it open.
    package var file: Int32
    package var lengthInBytes: UInt64

    package init(file: Int32, lengthInBytes: UInt64) {
        self.file = file
        self.lengthInBytes = lengthInBytes
    }
}

/// Reads a device that is made of files, one after another; keeps some of what it read, for the sake of metadata.
final class BlockSource {
    private static let windowInBytes = 64 << 10
    private static let windowCount = 16

    private let segments: [(start: UInt64, segment: ImageSegment)]
    let lengthInBytes: UInt64
    private var windows: [(index: UInt64, bytes: [UInt8])]

    init(_ segments: [ImageSegment]) throws(DiskImageError) {
        var placed: [(start: UInt64, segment: ImageSegment)] = []
        var length: UInt64 = 0
        for segment in segments {
            placed.append((length, segment))
            let (next, overflow) = length.addingReportingOverflow(segment.lengthInBytes)
            guard !overflow, next <= UInt64(Int64.max) else {
                throw .image(problem: "it is larger than a file can be", offset: length)
            }
            length = next
        }
        self.segments = placed
        lengthInBytes = length
        windows = Array(repeating: (UInt64.max, []), count: Self.windowCount)
    }

    /// Bytes of the device; fails where they are not all within it.
    /// - Parameter count: what the caller has found to be a sensible bound for what it reads.
    func bytes(at offset: UInt64, count: Int) throws(DiskImageError) -> ArraySlice<UInt8> {
        guard count >= 0, offset <= lengthInBytes, UInt64(count) <= lengthInBytes - offset else {
            throw .image(problem: "it points beyond its end", offset: offset)
        }
        let window = offset / UInt64(Self.windowInBytes)
        let within = Int(offset % UInt64(Self.windowInBytes))
        if within + count <= Self.windowInBytes {
            return try load(window)[within..<within + count]
        }
        let result = try read(at: offset, count: count)
        return result[...]
    }

    /// Reads into memory; fails where the bytes are not all within the device.
    func read(at offset: UInt64, into target: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        guard offset <= lengthInBytes, UInt64(target.count) <= lengthInBytes - offset else {
            throw .image(problem: "it points beyond its end", offset: offset)
        }
        var done = 0
        while done < target.count {
            let position = offset + UInt64(done)
            // The last segment that starts at or before the position; empty ones are passed over.
            var low = 0
            var high = segments.count
            while low < high {
                let middle = (low + high) / 2
                if segments[middle].start <= position { low = middle + 1 } else { high = middle }
            }
            let (start, segment) = segments[low - 1]
            let within = position - start
            let count = Int(min(UInt64(target.count - done), segment.lengthInBytes - within))
            let result = retryingInterrupts {
                unsafe pread(segment.file, target.baseAddress.map { unsafe $0 + done }, count, Int(within))
            }
            guard result >= 0 else { throw .system(SystemError("pread", "image")) }
            guard result > 0 else { throw .image(problem: "the file is shorter than it was", offset: position) }
            done += result
        }
    }

    private func load(_ window: UInt64) throws(DiskImageError) -> [UInt8] {
        let place = Int(window % UInt64(Self.windowCount))
        if windows[place].index != window {
            let start = window * UInt64(Self.windowInBytes)
            let bytes = try read(at: start, count: Int(min(UInt64(Self.windowInBytes), lengthInBytes - start)))
            windows[place] = (window, bytes)
        }
        return windows[place].bytes
    }

    private func read(at offset: UInt64, count: Int) throws(DiskImageError) -> [UInt8] {
        var failure: DiskImageError?
        let result = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            do throws(DiskImageError) {
                try unsafe read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
                filled = count
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return result
    }
}

extension UnsafeMutableRawBufferPointer {
    fileprivate init(rebasing slice: Slice<UnsafeMutableBufferPointer<UInt8>>) {
        unsafe self.init(UnsafeMutableBufferPointer(rebasing: slice))
    }
}

/// Little-endian numbers at a distance from a slice's start; the caller has made sure that they are there.
extension ArraySlice<UInt8> {
    func number16(_ at: Int) -> UInt16 {
        UInt16(self[startIndex + at]) | UInt16(self[startIndex + at + 1]) << 8
    }

    func number32(_ at: Int) -> UInt32 {
        UInt32(number16(at)) | UInt32(number16(at + 2)) << 16
    }

    func number64(_ at: Int) -> UInt64 {
        UInt64(number32(at)) | UInt64(number32(at + 4)) << 32
    }
}
