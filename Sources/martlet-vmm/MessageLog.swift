// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
internal import Platform
internal import Synchronization

/// Writes messages, one line each: `2026-01-31T12:00:00.123456789 [ID:THREAD:LEVEL:FILE:LINE] text`, level and place
/// where they are asked for. For any thread.
final class MessageLog: Sendable {
    private struct Settings: ~Copyable {
        var target: Descriptor
        var level: Logger.Level
        var showsLevel = false
        var showsOrigin = false
        var module: String?
    }

    private let identifier: String
    private let defaultLevel: Logger.Level
    private let settings: Mutex<Settings>
    private let missed = Atomic<UInt64>(0)

    /// - Parameters:
    ///   - target: where lines go until `configure` says otherwise.
    ///   - level: what is written as long as nothing else is said.
    init(_ target: consuming Descriptor, level: Logger.Level, identifier: String) {
        self.identifier = identifier
        defaultLevel = level
        settings = Mutex(Settings(target: target, level: level))
    }

    /// How many lines could not be written.
    var missedCount: UInt64 { missed.load(ordering: .relaxed) }

    /// Takes on what is set; a level that is not set is the default.
    func configure(_ logger: Logger) throws(SystemError) {
        var target: Descriptor?
        if let path = logger.path { target = try Descriptor.open(path, .appendOrPipe) }
        let new: Int32? = if let opened = target.take() { opened.release() } else { nil }
        settings.withLock { settings in
            if let new { settings.target = Descriptor(owning: new) }
            settings.level = logger.level ?? defaultLevel
            settings.showsLevel = logger.showsLevel ?? settings.showsLevel
            settings.showsOrigin = logger.showsOrigin ?? settings.showsOrigin
            settings.module = logger.module ?? settings.module
        }
    }

    /// What is set, but for the path.
    var logger: Logger {
        settings.withLock { settings in
            var logger = Logger()
            logger.level = settings.level
            logger.showsLevel = settings.showsLevel
            logger.showsOrigin = settings.showsOrigin
            logger.module = settings.module
            return logger
        }
    }

    func write(_ level: Logger.Level, _ text: @autoclosure () -> String, file: String = #fileID, line: Int = #line) {
        settings.withLock { settings in
            guard level <= settings.level, level != .off else { return }
            put(level, text(), file, line, settings)
        }
    }

    /// Writes what was asked for, whatever the level is.
    func announce(_ text: String, file: String = #fileID, line: Int = #line) {
        settings.withLock { put(.info, text, file, line, $0) }
    }

    private func put(
        _ level: Logger.Level, _ text: String, _ file: String, _ line: Int, _ settings: borrowing Settings
    ) {
        if let module = settings.module, !file.hasPrefix(module) { return }
        var head = "\(Self.now()) [\(identifier):\(Self.threadName())"
        if settings.showsLevel { head += ":\(level.tag)" }
        if settings.showsOrigin { head += ":\(file):\(line)" }
        do throws(SystemError) {
            try settings.target.writeAll(Array("\(head)] \(text)\n".utf8))
        } catch {
            missed.add(1, ordering: .relaxed)
        }
    }

    private static func threadName() -> String {
        let name = currentThreadName()
        return name.hasPrefix("martlet") ? "main" : name
    }

    /// The local time to the nanosecond.
    private static func now() -> String {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        var parts = unsafe tm()
        unsafe localtime_r(&time.tv_sec, &parts)
        func digits(_ value: Int, _ count: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        let year = unsafe Int(parts.tm_year) + 1900
        let month = unsafe Int(parts.tm_mon) + 1
        let day = unsafe Int(parts.tm_mday)
        let (hour, minute, second) = unsafe (Int(parts.tm_hour), Int(parts.tm_min), Int(parts.tm_sec))
        return "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))T"
            + "\(digits(hour, 2)):\(digits(minute, 2)):\(digits(second, 2)).\(digits(time.tv_nsec, 9))"
    }
}

extension Logger.Level {
    /// As lines have it.
    fileprivate var tag: String { self == .warning ? "WARN" : rawValue.uppercased() }
}
