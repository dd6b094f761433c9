// SPDX-License-Identifier: Apache-2.0

internal import CISAL
internal import CZstd
internal import Glibc
internal import Platform

/// Archives that are compressed as a whole are unpacked into a file without a name first: they are read out of order.
enum OuterCompression {
    /// The archive itself if it is plain, else what is in it.
    /// - Parameter directory: where the file without a name takes its space.
    static func plain(_ archive: FileSlice, temporaryDirectory directory: String, what: String) throws(OCIError)
        -> FileSlice
    {
        var magic = [UInt8](repeating: 0, count: 6)
        let count = try magic.withUnsafeMutableBytes { space in
            Result { () throws(OCIError) in try archive.read(into: space, at: 0) }
        }.get()
        magic.removeLast(6 - count)
        if magic.starts(with: [0x1f, 0x8b]) {
            return try unpack(archive, directory, what) { sink throws(OCIError) in
                try inflate(archive, what: what, into: sink)
            }
        }
        if magic.starts(with: [0x28, 0xb5, 0x2f, 0xfd]) {
            return try unpack(archive, directory, what) { sink throws(OCIError) in
                try decompressZstd(archive, what: what, into: sink)
            }
        }
        for (name, prefix) in [("xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a] as [UInt8]), ("bzip2", [0x42, 0x5a, 0x68])]
        where magic.starts(with: prefix) {
            throw .unsupported(what: what, reason: "it is compressed with \(name); unpack it first")
        }
        return archive
    }

    private typealias Sink = (UnsafeRawBufferPointer) throws(OCIError) -> Void

    private static func unpack(
        _ archive: FileSlice, _ directory: String, _ what: String, _ run: (Sink) throws(OCIError) -> Void
    ) throws(OCIError) -> FileSlice {
        let path = "\(directory)/unpacked-\(getpid())-\(monotonicNanoseconds())"
        let file = try OCIError.wrapping { () throws(SystemError) in
            try Descriptor.open(path, .createNew, permissions: 0o600)
        }
        Files.remove(path)
        try run { bytes throws(OCIError) in
            do throws(SystemError) { try file.writeAll(bytes) } catch {
                throw .system(SystemError("write", directory, code: error.code))
            }
        }
        return try FileSlice(file, path: what, what: what)
    }

    /// RFC 1952, members one after another.
    private static func inflate(_ archive: FileSlice, what: String, into sink: Sink) throws(OCIError) {
        let state = UnsafeMutablePointer<inflate_state>.allocate(capacity: 1)
        let input = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 64)
        let output = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 64)
        defer {
            state.deallocate()
            input.deallocate()
            output.deallocate()
        }
        isal_inflate_init(state)
        state.pointee.crc_flag = UInt32(ISAL_GZIP)
        var position: Int64 = 0
        var atMemberStart = true
        while true {
            if state.pointee.avail_in == 0 {
                let count = try archive.read(into: input, at: position)
                position += Int64(count)
                if count == 0 && atMemberStart { return }
                state.pointee.next_in = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
                state.pointee.avail_in = UInt32(count)
                if count == 0 && position >= archive.length && state.pointee.read_in_length <= 0 {
                    throw .malformed(what: what, reason: "its gzip stream ends too early; it is not whole")
                }
            }
            let before = state.pointee.avail_in
            state.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
            state.pointee.avail_out = UInt32(output.count)
            let code = isal_inflate(state)
            guard code == ISAL_DECOMP_OK || code == ISAL_END_INPUT else {
                // Bytes after the last member that are no member are padding.
                if atMemberStart && position > 18 { return }
                throw .malformed(what: what, reason: "its gzip stream is damaged")
            }
            atMemberStart = false
            let produced = output.count - Int(state.pointee.avail_out)
            if produced > 0 { try sink(UnsafeRawBufferPointer(rebasing: output[..<produced])) }
            if state.pointee.block_state == ISAL_BLOCK_FINISH {
                let rest = (state.pointee.next_in, state.pointee.avail_in)
                isal_inflate_reset(state)
                state.pointee.crc_flag = UInt32(ISAL_GZIP)
                (state.pointee.next_in, state.pointee.avail_in) = rest
                atMemberStart = true
            } else if produced == 0 && before == 0 && position >= archive.length {
                throw .malformed(what: what, reason: "its gzip stream ends too early; it is not whole")
            }
        }
    }

    /// RFC 8878.
    private static func decompressZstd(_ archive: FileSlice, what: String, into sink: Sink) throws(OCIError) {
        guard let stream = ZSTD_createDStream() else { throw .system(SystemError("malloc", code: ENOMEM)) }
        let input = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 64)
        let output = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 64)
        defer {
            ZSTD_freeDStream(stream)
            input.deallocate()
            output.deallocate()
        }
        var position: Int64 = 0
        var hint = 1
        while position < archive.length {
            let count = try archive.read(into: input, at: position)
            guard count > 0 else { break }
            position += Int64(count)
            var source = ZSTD_inBuffer(src: input.baseAddress, size: count, pos: 0)
            var full = false
            while source.pos < source.size || full {
                var target = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
                hint = ZSTD_decompressStream(stream, &target, &source)
                guard ZSTD_isError(hint) == 0 else {
                    throw .malformed(what: what, reason: "its zstd stream is damaged")
                }
                full = target.pos == target.size
                if target.pos > 0 { try sink(UnsafeRawBufferPointer(rebasing: output[..<target.pos])) }
            }
        }
        guard hint == 0 else {
            throw .malformed(what: what, reason: "its zstd stream ends too early; it is not whole")
        }
    }
}
