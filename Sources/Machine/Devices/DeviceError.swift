// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why a device cannot be made.
package enum DeviceError: Error, Equatable, Sendable, CustomStringConvertible {
    case system(SystemError)
    /// An extent of a disk reaches beyond the end of its file: its number, the end it needs and the file's size.
    case extentBeyondFile(index: Int, end: UInt64, size: UInt64)
    /// A disk without a single sector.
    case emptyDisk
    /// A disk beyond 2⁶³ bytes.
    case diskTooLarge

    package var description: String {
        switch self {
        case .system(let error): error.description
        case .extentBeyondFile(let index, let end, let size):
            "extent \(index) of the disk ends at byte \(end), but its file has \(size): it was cut short, or is another"
        case .emptyDisk: "the disk's file is smaller than one sector of 512 bytes"
        case .diskTooLarge: "the disk is larger than 2^63 bytes"
        }
    }
}

/// Runs a body whose failures are system errors.
func devicePart<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
) throws(DeviceError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
}
