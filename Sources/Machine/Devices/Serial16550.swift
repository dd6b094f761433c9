// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import MachineAPI
package import Platform
internal import Synchronization

/// A 16550A serial port: the guest's console.
///
/// The guest's bytes go into a bounded buffer under a lock, on the vCPU's thread, and from there to the sink on the
/// loop's. A sink that does not keep up costs the guest nothing: what the buffer cannot hold is dropped and counted.
package final class Serial16550: PortDevice, @unchecked Sendable {
    package static let ports: ClosedRange<UInt16> = 0x3f8...0x3ff
    package static let interruptLine: UInt32 = 4
    /// In bytes.
    package static let bufferSize = 64 * 1024
    /// PIPE_BUF.
    private static let pipeBufferSize = 4096
    private static let lastWaitInNanoseconds: UInt64 = 1_000_000_000

    private struct Contents {
        var registers = UARTRegisters()
        var output: [UInt8] = []
        var dropped: UInt64 = 0
        var bucket: TokenBucket?
        /// Bytes that there were no tokens for.
        var limited: UInt64 = 0

        /// Whether the guest may write one more byte now.
        mutating func admitsByte() -> Bool {
            guard bucket != nil else { return true }
            bucket?.settle(now: monotonicNanoseconds())
            guard bucket?.allows(1) == true else {
                limited &+= 1
                return false
            }
            bucket?.take(1)
            return true
        }
    }

    private enum Token {
        static let pending: UInt32 = 0
        static let sink: UInt32 = 1
        static let source: UInt32 = 2
    }

    /// Signalled for each interrupt: the machine attaches it to line 4 (irqfd, edge).
    package let interrupt: EventCounter
    private let contents = Mutex(Contents())
    private let pending: EventCounter
    private let sink: SharedDescriptor?
    /// The sink is asked before each write whether that would wait.
    private let sinkMayWait: Bool
    private let source: SharedDescriptor?

    // The loop thread's.
    private var writing: [UInt8] = []
    private var written = 0
    private var sinkRegistration: EventRegistration?
    private var sinkHasFailed = false
    private var sourceRegistration: EventRegistration?
    /// The guest's FIFO is full: the source is not watched until it takes some.
    private var isPaused = false
    private var attachedLoop: DeviceLoop?

    /// - Parameters:
    ///   - sink: where the guest's output goes, and nobody else's; nil: nowhere.
    ///   - source: where the guest's input comes from; nil: nowhere.
    ///   - limit: of the bytes that the guest writes; others are dropped and counted.
    package init(
        sink: SharedDescriptor?, source: SharedDescriptor? = nil, limit: RateLimit.Bucket? = nil
    ) throws(SystemError) {
        interrupt = try EventCounter()
        pending = try EventCounter()
        self.sink = sink
        sinkMayWait = sink.map { ConsoleOutput.mayWait($0.descriptor) } ?? false
        if let source, source === sink {
            // Each is watched by itself, which epoll does once a descriptor.
            self.source = SharedDescriptor(try source.descriptor.duplicate())
        } else {
            self.source = source
        }
        super.init(ports: Self.ports)
        contents.withLock { $0.bucket = limit.flatMap { TokenBucket($0, now: monotonicNanoseconds()) } }
    }

    /// Puts the device into the loop that writes its output.
    package func attach(to loop: DeviceLoop) throws(SystemError) {
        attachedLoop = loop
        _ = try loop.register(pending.descriptor.raw, .readable, self, token: Token.pending)
        if let fd = source?.raw {
            // A regular file cannot be watched, and is no console.
            sourceRegistration = try? loop.register(fd, .readable, self, token: Token.source)
        }
    }

    /// How many bytes were dropped because the sink did not keep up.
    package var droppedByteCount: UInt64 { contents.withLock { $0.dropped } }

    /// How many bytes were dropped because they were more than the limit allows.
    var limitedByteCount: UInt64 { contents.withLock { $0.limited } }

    // MARK: - State

    /// The registers, with the loop and the vCPUs standing still.
    func captureState() -> UARTRegisters { contents.withLock { $0.registers } }

    /// Gives a fresh port kept registers, before anything runs.
    func restore(_ registers: UARTRegisters) {
        contents.withLock { $0.registers = registers }
        if registers.interruptPending { interrupt.signal() }
    }

    // MARK: - The guest's side, on vCPU threads

    override func readByte(_ offset: UInt16) -> UInt8 {
        let (value, hasRoom) = contents.withLock { contents in
            let value = contents.registers.read(offset)
            return (value, offset == 0 && contents.registers.receiveSpace == UARTRegisters.fifoSize)
        }
        // The guest has emptied the FIFO: the loop may read on.
        if hasRoom, source != nil { pending.signal() }
        return value
    }

    override func writeByte(_ offset: UInt16, _ value: UInt8) {
        let (effect, isFirst) = contents.withLock { contents in
            let effect = contents.registers.write(offset, value)
            guard let byte = effect.output, contents.admitsByte() else { return (effect, false) }
            guard contents.output.count < Self.bufferSize else {
                contents.dropped += 1
                return (effect, false)
            }
            contents.output.append(byte)
            return (effect, contents.output.count == 1)
        }
        if isFirst { pending.signal() }
        if effect.interrupt { interrupt.signal() }
    }

    // MARK: - The host's side, on the loop's thread

    override func handleEvent(_ token: UInt32, _ readiness: Readiness) {
        switch token {
        case Token.pending:
            pending.drain()
            if sinkRegistration == nil { writeOut() }
            resumeReading()
        case Token.sink:
            writeOut()
        default:
            readIn()
        }
    }

    /// Writes what there is and the sink takes, while the loop stands still.
    package func flush() { writeOut() }

    /// Writes what is left at the end of the machine, after the loop has ended, on any thread. A sink that is full has a
    /// second; what it has not taken by then is dropped.
    package func finish() { writeOut(until: monotonicNanoseconds() + Self.lastWaitInNanoseconds) }

    /// - Parameter deadline: so long a full sink is waited for here; nil: not at all, but by the loop.
    private func writeOut(until deadline: UInt64? = nil) {
        while true {
            if written == writing.count {
                writing.removeAll(keepingCapacity: true)
                written = 0
                contents.withLock { swap(&writing, &$0.output) }
                if writing.isEmpty { break }
            }
            guard let fd = sink?.raw, !sinkHasFailed else {
                written = writing.count
                continue
            }
            switch write(to: fd) {
            case .taken(let count): written += count
            case .full:
                let now = monotonicNanoseconds()
                if let deadline, now < deadline,
                    ConsoleOutput.isWritable(fd, withinMilliseconds: Int32((deadline - now) / 1_000_000 + 1))
                {
                    continue
                }
                waitForSink(fd)
                return
            case .failed:
                // Nobody reads the console any more: the guest is not to notice.
                sinkHasFailed = true
            }
        }
        if let registration = sinkRegistration {
            attachedLoop?.deregister(registration)
            sinkRegistration = nil
        }
    }

    private enum Progress {
        case taken(Int)
        case full
        case failed
    }

    /// Writes as much as the sink takes at once.
    private func write(to fd: Int32) -> Progress {
        var limit = writing.count - written
        if sinkMayWait {
            guard ConsoleOutput.isWritable(fd) else { return .full }
            // What can be written to takes this much, whole (pipe(7)).
            limit = min(limit, Self.pipeBufferSize)
        }
        let count = unsafe writing.withUnsafeBytes { bytes in
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[written..<written + limit])
            return retryingInterrupts { unsafe Glibc.write(fd, rest.baseAddress, rest.count) }
        }
        if count >= 0 { return .taken(count) }
        return clinux_errno() == EAGAIN ? .full : .failed
    }

    private func waitForSink(_ fd: Int32) {
        guard sinkRegistration == nil, let loop = attachedLoop else { return }
        sinkRegistration = try? loop.register(fd, .writable, self, token: Token.sink)
        // Whatever gives EAGAIN can be watched.
        if sinkRegistration == nil { sinkHasFailed = true }
    }

    private func readIn() {
        guard let fd = source?.raw, let registration = sourceRegistration else { return }
        let space = contents.withLock { $0.registers.receiveSpace }
        guard space > 0 else {
            // Until the guest takes what it has.
            attachedLoop?.deregister(registration)
            sourceRegistration = nil
            isPaused = true
            return
        }
        var bytes = InlineArray<16, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        let count = unsafe span.withUnsafeMutableBytes { buffer in
            retryingInterrupts { unsafe Glibc.read(fd, buffer.baseAddress, min(space, buffer.count)) }
        }
        guard count > 0 else {
            if count < 0, clinux_errno() == EAGAIN { return }
            attachedLoop?.deregister(registration)
            sourceRegistration = nil
            return
        }
        let rises = contents.withLock { contents in
            var rises = false
            for index in 0..<count { rises = contents.registers.receive(bytes[index]) || rises }
            return rises
        }
        if rises { interrupt.signal() }
    }

    private func resumeReading() {
        guard isPaused, let fd = source?.raw else { return }
        isPaused = false
        sourceRegistration = try? attachedLoop?.register(fd, .readable, self, token: Token.source)
    }
}
