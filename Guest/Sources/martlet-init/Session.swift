// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// A process that the host asked for, with its streams.
///
/// Its child is made at `request`, readies itself (Launch) and says on the status pipe that it could be started; a byte
/// on the go pipe starts it. One that starts at once neither says so nor waits. The status pipe closes when the program
/// is executed, or carries the reason why not.
final class Session {
    let id: UInt32
    /// Never used twice, so that an event of a descriptor that is closed already finds nobody.
    let serial: UInt64
    let isMain: Bool
    /// It has a process namespace of its own, whose end kills all in it.
    let ownsNamespace: Bool
    var machine: SessionStateMachine

    /// 0 once it was reaped.
    var process: Int32 = 0
    var status: Descriptor?
    var statusBytes: [UInt8] = []
    var go: Descriptor?
    var input: InputStream
    var output: OutputStream
    var errors: OutputStream

    /// The kernel's word about the end, and the signal that was asked for where another had to bring it about.
    var exitStatus: Int32?
    var substitutedSignal: Int32 = 0
    /// Signals that came before there was a program to take them, a bit each.
    var heldSignals: UInt64 = 0
    var startedAt: UInt64 = 0
    var exitedAt: UInt64 = 0

    init(id: UInt32, serial: UInt64, request: ProcessRequest, ownsNamespace: Bool) {
        self.id = id
        self.serial = serial
        isMain = request.isMain
        self.ownsNamespace = ownsNamespace
        machine = SessionStateMachine(
            .guest, hasInput: request.hasInput, startsAtOnce: request.startsAtOnce && !ownsNamespace)
        input = InputStream()
        output = OutputStream(.output)
        errors = OutputStream(.errors)
    }

    /// Nothing is left to read or to say but `exited`.
    var isDrained: Bool { output.descriptor == nil && errors.descriptor == nil }
}

/// Standard input on its way from the host to the process. Bounded by the credit that the host was given.
struct InputStream {
    var descriptor: Descriptor?
    var isWritable = true
    /// The host has ended it: the pipe is closed once it is empty.
    var isEnded = false
    private var chunks: [[UInt8]] = []
    private var firstChunk = 0
    private var position = 0

    var isEmpty: Bool { firstChunk == chunks.count }

    mutating func append(_ bytes: [UInt8]) {
        if !bytes.isEmpty { chunks.append(bytes) }
    }

    /// Hands bytes to the process; gives how many went. Those of a process that does not read any more are dropped, and
    /// count as gone.
    mutating func pass() -> Int {
        var passed = 0
        while isWritable || descriptor == nil, firstChunk < chunks.count {
            let rest = chunks[firstChunk].count - position
            var count = rest
            if let descriptor {
                count = chunks[firstChunk][position...].withUnsafeBytes {
                    guest_write(descriptor.raw, $0.baseAddress, rest)
                }
                if count == -Int(guest_eagain) {
                    isWritable = false
                    break
                }
                if count < 0 {
                    self.descriptor = nil
                    count = rest
                }
            }
            passed += count
            position += count
            if position == chunks[firstChunk].count {
                chunks[firstChunk] = []
                firstChunk += 1
                position = 0
            }
        }
        if isEmpty {
            chunks.removeAll(keepingCapacity: true)
            firstChunk = 0
            if isEnded { descriptor = nil }
        } else if firstChunk >= 256 {
            chunks.removeFirst(firstChunk)
            firstChunk = 0
        }
        return passed
    }
}

/// Standard output or standard error, on its way from the process to the host.
struct OutputStream {
    let kind: StreamKind
    /// Nil before the start, and after the end.
    var descriptor: Descriptor?
    var isReadable = true
    /// After the process ended: what was in the pipe at that moment and is still to be read. Nil while it goes on, and
    /// where the end of the pipe is sure to come.
    var remaining: Int?

    init(_ kind: StreamKind) {
        self.kind = kind
    }
}
