// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// Copies parts of files, by the file system's own means where it has any.
enum FileCopy {
    /// Makes an empty file one with the same bytes: a reflink where the file system can, which takes no time and no
    /// room, otherwise a copy of what is no hole.
    /// - Parameter count: the source's length in bytes.
    static func clone(_ source: borrowing Descriptor, count: UInt64, to file: borrowing Descriptor) throws(SystemError)
    {
        if clinux_ioctl(file.raw, CLINUX_FICLONE, UInt(source.raw)) == 0 { return }
        try file.truncate(to: count)
        try copy(0..<count, from: source, to: file, skipsHoles: true)
    }

    /// - Parameter skipsHoles: the target has zeros there already.
    static func copy(
        _ part: Range<UInt64>, from source: borrowing Descriptor, to file: borrowing Descriptor, skipsHoles: Bool
    ) throws(SystemError) {
        var position = part.lowerBound
        while position < part.upperBound {
            var end = part.upperBound
            if skipsHoles {
                let data = lseek(source.raw, Int(position), CLINUX_SEEK_DATA)
                if data < 0, clinux_errno() == ENXIO { return }
                if data >= 0 {
                    guard UInt64(data) < part.upperBound else { return }
                    position = max(position, UInt64(data))
                    let hole = lseek(source.raw, data, CLINUX_SEEK_HOLE)
                    if hole > data { end = min(end, UInt64(hole)) }
                }
            }
            while position < end { position += try copyOnce(position..<end, from: source, to: file) }
        }
    }

    private static func copyOnce(
        _ part: Range<UInt64>, from source: borrowing Descriptor, to file: borrowing Descriptor
    ) throws(SystemError) -> UInt64 {
        let (from, to, offset) = (source.raw, file.raw, Int64(part.lowerBound))
        let length = Int(part.upperBound - part.lowerBound)
        let count = retryingInterrupts { clinux_copy_file_part(from, offset, to, offset, length) }
        if count > 0 { return UInt64(count) }
        if count < 0, ![EXDEV, EINVAL, EOPNOTSUPP, ENOSYS].contains(clinux_errno()) {
            throw SystemError("copy_file_range")
        }
        // Not between these file systems, or not from this one: by hand.
        var bytes = [UInt8](repeating: 0, count: min(1 << 20, length))
        let outcome: Result<UInt64, SystemError> = unsafe bytes.withUnsafeMutableBytes { space in
            let got = retryingInterrupts { unsafe pread(from, space.baseAddress, space.count, Int(offset)) }
            guard got > 0 else { return .failure(SystemError("pread", code: got < 0 ? clinux_errno() : EIO)) }
            let put = retryingInterrupts { unsafe pwrite(to, space.baseAddress, got, Int(offset)) }
            guard put > 0 else { return .failure(SystemError("pwrite", code: put < 0 ? clinux_errno() : EIO)) }
            return .success(UInt64(put))
        }
        return try outcome.get()
    }
}
