// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// The writing end of a machine's log. One writer; records are appended whole, each with one system call, so that only
/// a crash of the host can leave a part of one, at the end.
struct OutputLog: ~Copyable {
    private let file: Descriptor
    private var space: [UInt8] = []
    /// Why writing stopped. A full disk ends the log, not the container.
    private(set) var failure: SystemError?

    init(path: String) throws(SystemError) {
        file = try Descriptor.open(path, .append, permissions: 0o600)
    }

    mutating func append(_ record: LogRecord) {
        guard failure == nil else { return }
        space.removeAll(keepingCapacity: true)
        record.write(to: &space)
        do throws(SystemError) { try file.writeAll(space) } catch { failure = error }
    }
}
