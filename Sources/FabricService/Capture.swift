// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Packet
internal import Platform

/// Frames on their way to a reader, as pcapng: what machines send, as it came, and what is sent to them. A reader that is
/// too slow loses frames, which are counted; the network never waits for it.
final class Capture {
    let output: Descriptor
    /// Nil for all machines.
    let port: PortID?
    /// Of the connection that asked.
    let client: Int
    private var waiting: [UInt8] = []
    private var first = 0
    private(set) var lost: UInt64 = 0
    private var interfaces: [Int: UInt32] = [:]
    var isWatched = false

    static let limitInBytes = 4 << 20

    init(output: consuming Descriptor, port: PortID?, client: Int) {
        self.output = output
        self.port = port
        self.client = client
        waiting = PCAPNG.begin(application: "martlet-fabric")
    }

    var isBlocked: Bool { first < waiting.count }

    /// Adds a frame.
    /// - Parameter comment: why it goes nowhere, if it does not.
    func add(
        _ frame: RawSpan, at port: PortID, name: String, direction: PCAPNG.Direction, comment: String?
    ) {
        guard waiting.count - first + frame.byteCount < Capture.limitInBytes else {
            lost &+= 1
            return
        }
        let interface: UInt32
        if let known = interfaces[port.index] {
            interface = known
        } else {
            interface = UInt32(interfaces.count)
            interfaces[port.index] = interface
            waiting += PCAPNG.interface(name: name, lengthLimit: PCAPNG.frameLimit)
        }
        let kept = frame.slice(0, min(frame.byteCount, Int(PCAPNG.frameLimit)))
        waiting += PCAPNG.packet(
            kept, originalLength: frame.byteCount, interface: interface, nanoseconds: wallClockNanoseconds(),
            direction: direction, comment: comment)
    }

    /// A port is used by another machine now: its frames are another interface's.
    func forget(_ port: PortID) { interfaces[port.index] = nil }

    /// Writes what the reader takes; false when it has gone.
    func write() -> Bool {
        while first < waiting.count {
            let count = unsafe waiting.withUnsafeBytes { bytes in
                retryingInterrupts {
                    unsafe Glibc.write(output.raw, bytes.baseAddress.map { unsafe $0 + first }, bytes.count - first)
                }
            }
            guard count > 0 else { return clinux_errno() == EAGAIN }
            first += count
        }
        waiting.removeAll(keepingCapacity: waiting.capacity < 1 << 18)
        first = 0
        return true
    }
}
