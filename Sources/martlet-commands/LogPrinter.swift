// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Launch
internal import Platform
internal import Worker

/// Prints a log file, and what is added to it for as long as its machine lives. The file is the only source: a reader
/// that is slow keeps nobody waiting.
struct LogPrinter {
    var record: MachineRecord
    var selection: LogSelection
    var hasTimestamps: Bool

    func run(follow: Bool) throws {
        let path = "\(record.directory)/\(MachineFile.output)"
        guard Files.exists(path) else { return }
        // Watched before it is read, so that nothing falls between.
        let watch = try FileWatch(path)
        let skipped = try selection.linesToSkip(path)
        let file = try Descriptor.open(path, .readOnly)
        var reader = LogReader()
        var lines = LogLines(skip: skipped, since: selection.since, hasTimestamps: hasTimestamps)
        if follow, record.isHeld, let life = try? Control(record) {
            repeat {
                watch.drain()
                try copy(file, &reader, &lines)
            } while try life.wait(alsoFor: watch.descriptor)
        }
        try copy(file, &reader, &lines)
    }

    private func copy(_ file: borrowing Descriptor, _ reader: inout LogReader, _ lines: inout LogLines) throws {
        var space = [UInt8](repeating: 0, count: 65_536)
        while case .bytes(let count) = try space.withUnsafeMutableBytes({ try file.read(into: $0) }) {
            reader.append(space[..<count])
            while let record = reader.next() {
                let bytes = lines.take(record)
                if !bytes.isEmpty { try LogPrinter.write(bytes, to: record.stream) }
            }
            if reader.isBroken { throw Failure("the log is damaged: \(self.record.directory)/\(MachineFile.output)") }
        }
    }

    private static func write(_ bytes: [UInt8], to stream: LogRecord.Stream) throws {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { all in
                retryingInterrupts {
                    Glibc.write(
                        stream == .output ? STDOUT_FILENO : STDERR_FILENO, all.baseAddress.map { $0 + done },
                        all.count - done)
                }
            }
            guard count > 0 else { throw SystemError("write") }
            done += count
        }
    }
}

/// Which part of a log is wanted.
struct LogSelection {
    var lastLines: Int?
    /// Nanoseconds since 1970.
    var since: UInt64 = 0

    /// How many lines come before the last ones that are wanted.
    func linesToSkip(_ path: String) throws -> Int {
        guard let lastLines else { return 0 }
        let file = try Descriptor.open(path, .readOnly)
        var reader = LogReader()
        var counter = LogLines(skip: 0, since: since, hasTimestamps: false)
        var space = [UInt8](repeating: 0, count: 65_536)
        while case .bytes(let count) = try space.withUnsafeMutableBytes({ try file.read(into: $0) }) {
            reader.append(space[..<count])
            while let record = reader.next() { _ = counter.take(record) }
        }
        return max(0, counter.count - lastLines)
    }
}

/// Tells when something was added to a file (inotify(7)).
struct FileWatch: ~Copyable {
    let descriptor: Descriptor

    init(_ path: String) throws(SystemError) {
        let raw = inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))
        guard raw >= 0 else { throw SystemError("inotify_init1") }
        let opened = Descriptor(owning: raw)
        guard inotify_add_watch(raw, path, UInt32(IN_MODIFY)) >= 0 else { throw SystemError("inotify_add_watch", path) }
        descriptor = opened
    }

    /// Takes what was told.
    borrowing func drain() {
        var space = [UInt8](repeating: 0, count: 4096)
        while case .bytes = try? space.withUnsafeMutableBytes({ try descriptor.read(into: $0) }) {}
    }
}
