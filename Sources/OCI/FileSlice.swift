// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// A run of bytes in an open file.
package struct FileSlice: Sendable {
    /// Keeps the file open for as long as a slice of it is in use.
    final class OpenFile: Sendable {
        let descriptor: Descriptor
        let path: String

        init(_ descriptor: consuming Descriptor, path: String) {
            self.descriptor = descriptor
            self.path = path
        }
    }

    let file: OpenFile
    let offset: Int64
    /// In bytes.
    package let length: Int64

    /// The whole of a file, which must be a regular one.
    /// - Parameter what: the file's role, for errors.
    init(path: String, what: String) throws(OCIError) {
        let descriptor: Descriptor
        do throws(SystemError) {
            // Non-blocking, so that a pipe in a file's place is refused instead of waited for.
            descriptor = try Descriptor.open(path, .readOnly.nonBlocking)
        } catch {
            if error.code == ENOENT || error.code == ENOTDIR { throw .noSuchFile(what: what, path: path) }
            throw .system(error)
        }
        try self.init(descriptor, path: path, what: what)
    }

    init(_ descriptor: consuming Descriptor, path: String, what: String) throws(OCIError) {
        var status = stat()
        guard fstat(descriptor.raw, &status) == 0 else { throw .system(SystemError("fstat", path)) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw .unsupported(what: "\(what) (\(printable(path, limit: 300)))", reason: "it is not a regular file")
        }
        self.file = OpenFile(descriptor, path: path)
        self.offset = 0
        self.length = Int64(max(0, status.st_size))
    }

    private init(file: OpenFile, offset: Int64, length: Int64) {
        self.file = file
        self.offset = offset
        self.length = length
    }

    /// A part of it, or nil if it reaches beyond.
    func part(offset: Int64, length: Int64) -> FileSlice? {
        guard offset >= 0, length >= 0, offset <= self.length, length <= self.length - offset else { return nil }
        return FileSlice(file: file, offset: self.offset + offset, length: length)
    }

    /// Reads at an offset into the slice, until the buffer is full or the slice ends.
    func read(into buffer: UnsafeMutableRawBufferPointer, at position: Int64) throws(OCIError) -> Int {
        guard position >= 0, position < length else { return 0 }
        let wanted = Int(min(Int64(buffer.count), length - position))
        do throws(SystemError) {
            return try file.descriptor.readFully(
                into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]), at: UInt64(offset + position))
        } catch {
            throw .system(SystemError("read", file.path, code: error.code))
        }
    }

    /// All of it, of at most `limit` bytes.
    func bytes(limit: Int, what: String) throws(OCIError) -> [UInt8] {
        guard length <= limit else { throw .tooLarge(what: what, limit: Int64(limit)) }
        var bytes = [UInt8](repeating: 0, count: Int(length))
        let count = try bytes.withUnsafeMutableBytes { space in
            Result { () throws(OCIError) in try read(into: space, at: 0) }
        }.get()
        guard count == bytes.count else {
            throw .wrongSize(what: what, expected: length, found: Int64(count))
        }
        return bytes
    }

    /// Hands all bytes to a sink and checks them; it blocks. Only when it returns are they what they should be.
    /// - Parameters:
    ///   - digest: what they must come to, if that is known.
    ///   - sink: false ends the reading (`OCIError.cancelled`).
    package func read(
        expecting digest: Digest?, what: String, into sink: (UnsafeRawBufferPointer) -> Bool
    ) throws(OCIError) {
        let chunk = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 64)
        defer { chunk.deallocate() }
        var hasher = digest.map { DigestHasher($0.algorithm) }
        var position: Int64 = 0
        while position < length {
            let count = try read(into: chunk, at: position)
            guard count > 0 else { throw .wrongSize(what: what, expected: length, found: position) }
            let bytes = UnsafeRawBufferPointer(rebasing: chunk[..<count])
            hasher?.update(bufferPointer: bytes)
            guard sink(bytes) else { throw .cancelled }
            position += Int64(count)
        }
        guard let digest, let found = hasher?.finish(), found != digest else { return }
        throw .wrongDigest(what: what, expected: digest.description, found: found.description)
    }
}
