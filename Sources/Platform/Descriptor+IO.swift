// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// What a read or a write came to when it did not fail.
package enum Transfer: Equatable, Sendable {
    /// So many bytes, at least one.
    case bytes(Int)
    /// Nothing now; wait until the descriptor is ready.
    case wouldBlock
    /// The other side has ended (reads only).
    case endOfFile
}

extension Descriptor {
    package borrowing func read(into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Transfer {
        let raw = raw
        let count = retryingInterrupts { unsafe Glibc.read(raw, buffer.baseAddress, buffer.count) }
        return try Transfer(count, "read")
    }

    /// Writes what fits; a caller that wants all of it written calls `writeAll`.
    /// A broken pipe is an error (EPIPE), never a signal, provided the process ignores SIGPIPE.
    package borrowing func write(_ buffer: UnsafeRawBufferPointer) throws(SystemError) -> Transfer {
        let raw = raw
        let count = retryingInterrupts { unsafe Glibc.write(raw, buffer.baseAddress, buffer.count) }
        return try Transfer(count, "write", zeroIsEnd: false)
    }

    /// Writes all bytes to a blocking descriptor.
    package borrowing func writeAll(_ buffer: UnsafeRawBufferPointer) throws(SystemError) {
        var rest = unsafe buffer
        while rest.count > 0 {
            guard case .bytes(let count) = try unsafe write(rest) else { throw SystemError("write", code: EAGAIN) }
            unsafe rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    package borrowing func writeAll(_ bytes: [UInt8]) throws(SystemError) {
        let raw = raw
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { all in
                retryingInterrupts {
                    unsafe Glibc.write(raw, all.baseAddress.map { unsafe $0 + done }, all.count - done)
                }
            }
            guard count > 0 else { throw SystemError("write") }
            done += count
        }
    }

    /// Sends all bytes over a blocking unix socket, and with the first of them a copy of a descriptor (SCM_RIGHTS).
    package borrowing func send(_ bytes: [UInt8], with passenger: borrowing Descriptor) throws(SystemError) {
        try send(bytes, with: passenger.raw)
    }

    /// The same, of a descriptor that somebody else owns.
    package borrowing func send(_ bytes: [UInt8], with passenger: Int32) throws(SystemError) {
        let raw = raw
        var passengers = [passenger]
        let count = unsafe bytes.withUnsafeBytes { all in
            retryingInterrupts { unsafe clinux_send_descriptors(raw, all.baseAddress, all.count, &passengers, 1) }
        }
        guard count > 0 else { throw SystemError("sendmsg") }
        if count < bytes.count { try writeAll(Array(bytes[count...])) }
    }

    /// Takes a byte from a blocking unix socket, and the descriptor that came with it; nil where none did.
    package borrowing func receiveDescriptor() throws(SystemError) -> Descriptor? {
        let raw = raw
        var byte: UInt8 = 0
        var number: Int32 = -1
        var count = 0
        let length = retryingInterrupts { unsafe clinux_receive_descriptors(raw, &byte, 1, &number, 1, &count) }
        guard length >= 0 else { throw SystemError("recvmsg") }
        return count == 1 ? Descriptor(owning: number) : nil
    }

    /// Reads up to `limit` bytes from the current position to the end; one byte more is an error (EFBIG).
    package borrowing func readAll(limit: Int) throws(SystemError) -> [UInt8] {
        let raw = raw
        var result: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe chunk.withUnsafeMutableBytes { space in
                retryingInterrupts { unsafe Glibc.read(raw, space.baseAddress, space.count) }
            }
            guard count >= 0 else { throw SystemError("read") }
            if count == 0 { return result }
            guard result.count + count <= limit else { throw SystemError("read", code: EFBIG) }
            result.append(contentsOf: chunk[..<count])
        }
    }

    /// Reads at an offset until the buffer is full or the file ends; gives the number of bytes read.
    package borrowing func readFully(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) throws(SystemError) -> Int {
        let raw = raw
        var done = 0
        while done < buffer.count {
            let count = retryingInterrupts {
                unsafe pread(raw, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done, Int(offset) + done)
            }
            guard count >= 0 else { throw SystemError("pread") }
            if count == 0 { break }
            done += count
        }
        return done
    }

    /// Writes all bytes at an offset.
    package borrowing func writeAll(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try unsafe Self.writeAll(buffer, to: raw, at: offset)
    }

    /// Writes a part of some bytes at an offset.
    package borrowing func writeAll(_ bytes: [UInt8], _ part: Range<Int>, at offset: UInt64) throws(SystemError) {
        let raw = raw
        try unsafe bytes[part].withUnsafeBytes { all in
            Result { () throws(SystemError) in try unsafe Self.writeAll(all, to: raw, at: offset) }
        }.get()
    }

    private static func writeAll(
        _ buffer: UnsafeRawBufferPointer, to raw: Int32, at offset: UInt64
    ) throws(SystemError) {
        var done = 0
        while done < buffer.count {
            let count = retryingInterrupts {
                unsafe pwrite(raw, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done, Int(offset) + done)
            }
            guard count > 0 else { throw SystemError("pwrite") }
            done += count
        }
    }

    /// The size of a file in bytes, or of a block device.
    package borrowing func size() throws(SystemError) -> UInt64 {
        var status = stat()
        guard unsafe fstat(raw, &status) == 0 else { throw SystemError("fstat") }
        if status.st_mode & S_IFMT == S_IFBLK {
            var size: UInt64 = 0
            guard unsafe clinux_ioctl_pointer(raw, CLINUX_BLKGETSIZE64, &size) == 0 else {
                throw SystemError("ioctl", "BLKGETSIZE64")
            }
            return size
        }
        return UInt64(max(0, status.st_size))
    }

    package borrowing func truncate(to size: UInt64) throws(SystemError) {
        guard ftruncate(raw, Int(size)) == 0 else { throw SystemError("ftruncate") }
    }

    /// Data and metadata reach the disk before this returns.
    package borrowing func synchronize() throws(SystemError) {
        let raw = raw
        guard retryingInterrupts({ fsync(raw) }) == 0 else { throw SystemError("fsync") }
    }

    /// Data, and what is needed to find it again, reach the disk before this returns.
    package borrowing func synchronizeData() throws(SystemError) {
        let raw = raw
        guard retryingInterrupts({ fdatasync(raw) }) == 0 else { throw SystemError("fdatasync") }
    }
}

extension Transfer {
    init(_ count: Int, _ call: StaticString, zeroIsEnd: Bool = true) throws(SystemError) {
        if count > 0 {
            self = .bytes(count)
        } else if count == 0 {
            self = zeroIsEnd ? .endOfFile : .bytes(0)
        } else if clinux_errno() == EAGAIN {
            self = .wouldBlock
        } else {
            throw SystemError(call)
        }
    }
}
