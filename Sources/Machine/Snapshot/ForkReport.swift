// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Wire

/// What came of one child of a fork.
package enum ForkOutcome: Equatable, Sendable {
    /// It runs as this process, which is waited for by nobody.
    case made(process: Int32)
    /// There is no such machine: why.
    case failed(String)
}

/// How long a machine stood still to be forked.
package struct ForkPause: Equatable, Sendable {
    package var inNanoseconds: UInt64 = 0
    /// The part of it that the forks took, and not waiting for devices, saving their state or copying disks.
    package var forksInNanoseconds: UInt64 = 0
}

package struct ForkReport: Equatable, Sendable {
    package var pause: ForkPause
    /// One for each child, in their order.
    package var outcomes: [ForkOutcome]
}

/// A child of a fork, in its own process.
package struct ForkedChild: Sendable {
    /// Its number among the children.
    package let index: Int
    /// Whether the machine that it comes from ran, and was not paused.
    package let isRunning: Bool
    /// Descriptors of network interfaces that came to this process, by the interfaces' names.
    package var handed: [String: Int32] = [:]
    private let make: Make
    fileprivate let body: Machine.ForkBody

    typealias Make = @Sendable (MachineObserver, [String: Int32]) throws(MachineError) -> Machine

    init(index: Int, isRunning: Bool, make: @escaping Make, body: @escaping Machine.ForkBody) {
        self.index = index
        self.isRunning = isRunning
        self.make = make
        self.body = body
    }

    /// Makes the machine, once. It goes on from where the other stood; nothing of it runs before it is started.
    package func makeMachine(observer: MachineObserver) throws(MachineError) -> Machine {
        try make(observer, handed)
    }
}

/// What a parent and the children of a fork have in common: a pipe that lets the children go when it ends, and one that
/// each says on what became of it.
///
/// A child's record is one write, which is whole in the pipe: its number, 1 where its machine is made and 0 where it is
/// not, and why not. A child that ends without one has failed too.
///
/// `@unchecked Sendable`: the parent's ends are used by the forking thread first, and then by the one that waits for it.
final class ForkChannel: @unchecked Sendable {
    /// Less than PIPE_BUF, all of it.
    private static let textLimit = 800

    private var gate: Pipe?
    private var reports: Pipe?

    init() throws(SystemError) {
        gate = try Pipe()
        reports = try Pipe()
    }

    // MARK: - In a child

    func become(_ child: ForkedChild, keeping kept: [Int32]) -> Never {
        // Not let go: their numbers are closed, or owned by others from here on.
        guard let gate = gate.take(), let reports = reports.take() else { _exit(1) }
        let waiting = gate.reading.release()
        _ = gate.writing.release()
        let report = reports.writing
        _ = reports.reading.release()
        ForkedProcess.closeDescriptors(except: kept + [waiting, report.raw])
        var nothing: UInt8 = 0
        _ = retryingInterrupts { unsafe Glibc.read(waiting, &nothing, 1) }
        Glibc.close(waiting)
        do throws(MachineError) {
            let goOn = try child.body(child)
            Self.write(child.index, nil, to: report)
            report.close()
            goOn()
        } catch {
            Self.write(child.index, "\(error)", to: report)
            _exit(1)
        }
    }

    private static func write(_ index: Int, _ failure: String?, to report: borrowing Descriptor) {
        var record: [UInt8] = []
        let text = Array((failure ?? "").utf8.prefix(textLimit))
        record.appendInteger(UInt32(index))
        record.append(failure == nil ? 1 : 0)
        record.appendInteger(UInt16(text.count))
        // A parent that is gone asks nothing any more.
        try? report.writeAll(record + text)
    }

    // MARK: - In the parent

    /// How long all children may say nothing, in milliseconds. Each that has its machine, or none, says so; they need
    /// seconds where hundreds are made on a busy host.
    static let silenceLimit: Int32 = 60_000

    /// Lets the children go, and waits until each has its machine or has ended. Those from which nothing comes, nor from
    /// any other, for `silenceLimit` milliseconds are killed.
    func outcomes(of processes: [ForkedProcessNumber], silenceLimit: Int32 = silenceLimit) -> [ForkOutcome] {
        gate = nil
        var outcomes = processes.map { number in
            ForkOutcome.failed(
                number.process < 0
                    ? "\(SystemError("fork", code: number.code))" : "the child ended before it had its machine")
        }
        guard let reports = reports.take() else { return outcomes }
        reports.writing.close()
        let (bytes, isWhole) = Self.read(reports.reading, (Self.textLimit + 7) * processes.count, silenceLimit)
        var told: Set<Int> = []
        for (index, failure) in Self.records(bytes) where processes.indices.contains(index) {
            outcomes[index] = failure.map { .failed($0) } ?? .made(process: processes[index].process)
            told.insert(index)
        }
        guard !isWhole else { return outcomes }
        for (index, number) in processes.enumerated() where !told.contains(index) && number.process > 0 {
            guard Self.kill(number.process) else { continue }
            outcomes[index] = .failed(
                "it had no machine after \(silenceLimit / 1000) s in which no other got one either, and was killed: does "
                    + "what it connects to take connections, and is what it opens there?")
        }
        return outcomes
    }

    /// Reads to the end, which comes when no child has the pipe any more; or until nothing came for so long, or more than
    /// there can be.
    /// - Returns: what came, and whether the end was reached.
    private static func read(
        _ pipe: borrowing Descriptor, _ limit: Int, _ silence: Int32
    ) -> (bytes: [UInt8], isWhole: Bool) {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        let raw = pipe.raw
        while bytes.count <= limit {
            var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
            guard retryingInterrupts({ unsafe poll(&entry, 1, silence) }) > 0 else { return (bytes, false) }
            let count = unsafe chunk.withUnsafeMutableBytes { space in
                retryingInterrupts { unsafe Glibc.read(raw, space.baseAddress, space.count) }
            }
            guard count > 0 else { return (bytes, count == 0) }
            bytes += chunk[..<count]
        }
        return (bytes, false)
    }

    /// Kills a child, if it is still there: another process that has its number by now is no child of this one.
    private static func kill(_ process: Int32) -> Bool {
        var (code, signaled): (Int32, Bool) = (0, false)
        guard unsafe clinux_wait(process, true, &code, &signaled) == 0 else { return false }
        return Glibc.kill(process, SIGKILL) == 0
    }

    /// Records of a pipe's bytes; what is not whole at the end is left out.
    static func records(_ bytes: [UInt8]) -> [(index: Int, failure: String?)] {
        var records: [(index: Int, failure: String?)] = []
        var position = 0
        while let index: UInt32 = bytes.integer(at: position), position + 5 <= bytes.count,
            let count: UInt16 = bytes.integer(at: position + 5)
        {
            let end = position + 7 + Int(count)
            guard end <= bytes.count else { break }
            let text = String(decoding: bytes[(position + 7)..<end], as: UTF8.self)
            records.append((Int(index), bytes[position + 4] == 1 ? nil : text))
            position = end
        }
        return records
    }
}
