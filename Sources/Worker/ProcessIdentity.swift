// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
package import Wire

/// A process, told apart from every other one that had or will have its pid: by its start time, and by the boot that it
/// belongs to.
package struct ProcessIdentity: Equatable, Sendable {
    package var pid: Int32
    /// In clock ticks since boot: field 22 of /proc/PID/stat (proc(5)).
    package var startTime: UInt64
    /// /proc/sys/kernel/random/boot_id
    package var bootID: String

    /// Of a process that is there; nil where it is not.
    package init?(pid: Int32) {
        guard let startTime = Self.startTime(of: pid) else { return nil }
        self.pid = pid
        self.startTime = startTime
        bootID = Self.currentBootID()
    }

    /// Of this process.
    package static var current: ProcessIdentity? { ProcessIdentity(pid: getpid()) }

    /// Whether this very process is still there (a zombie that waits for its parent is not).
    package var isAlive: Bool {
        ProcessIdentity(pid: pid) == self
    }

    package static func currentBootID() -> String { bootIDOfThisProcess }

    // No process is there in two boots.
    private static let bootIDOfThisProcess: String = {
        guard let bytes = try? Files.read("/proc/sys/kernel/random/boot_id", limit: 100) else { return "" }
        return String(decoding: bytes.prefix { $0 > 0x20 }, as: UTF8.self)
    }()

    private static func startTime(of pid: Int32) -> UInt64? {
        guard let bytes = try? Files.read("/proc/\(pid)/stat", limit: 4096),
            // The name in parentheses may hold anything, parentheses included: fields are counted after the last one.
            let close = bytes.lastIndex(of: UInt8(ascii: ")"))
        else { return nil }
        // The third field, after that parenthesis and a space, is the state; the start time comes 19 spaces behind it.
        var place = close + 2
        guard place < bytes.count, bytes[place] != UInt8(ascii: "Z"), bytes[place] != UInt8(ascii: "X") else {
            return nil
        }
        for _ in 0..<19 {
            guard let space = bytes[place...].firstIndex(of: UInt8(ascii: " ")) else { return nil }
            place = space + 1
        }
        return UInt64(String(decoding: bytes[place...].prefix { $0 > 0x20 }, as: UTF8.self))
    }

    package init?(_ json: JSON) {
        guard let pid = json["pid"]?.integerValue.flatMap(Int32.init(exactly:)), pid > 0,
            let startTime = json["startTime"]?.unsignedValue, let bootID = json["bootId"]?.stringValue
        else { return nil }
        self.pid = pid
        self.startTime = startTime
        self.bootID = bootID
    }

    package var json: JSON {
        ["pid": .number(pid), "startTime": .number(startTime), "bootId": .string(bootID)]
    }
}

extension ProcessIdentity {
    /// Waits until this very process has ended, for a bounded time; whether it has.
    @discardableResult
    package func waitForEnd(milliseconds: Int32) -> Bool {
        guard isAlive else { return true }
        let raw = clinux_pidfd_open(pid)
        guard raw >= 0 else { return true }
        let descriptor = Descriptor(owning: raw)
        // Asked again: the descriptor may stand for another process that got the number in between.
        guard isAlive else { return true }
        var entry = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        return retryingInterrupts { unsafe poll(&entry, 1, milliseconds) } > 0
    }
}
