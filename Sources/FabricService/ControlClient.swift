// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import FabricAPI
internal import Glibc
internal import Platform

/// One connection to the control socket: a lease on what it attached.
final class ControlClient {
    let socket: Descriptor
    private var input: [UInt8] = []
    private var output: [UInt8] = []
    /// Descriptors that came and that no request has taken yet.
    private var descriptors: [Int32] = []
    /// Indices of the ports that it attached.
    var attached: [Int] = []
    /// The machine that speaks here, through its gateway; nil for who came to the control socket.
    let machine: EndpointID?
    /// It has shown the token that its machine was attached with.
    var isTrusted = false
    /// What such a machine has published here.
    var published: [PublishedPorts] = []
    var listeners: [UInt32] = []

    init(_ socket: consuming Descriptor, machine: EndpointID? = nil) {
        self.socket = socket
        self.machine = machine
    }

    deinit { for raw in descriptors { Glibc.close(raw) } }

    enum Input {
        case lines([[UInt8]])
        /// A line that is longer than any request.
        case tooLong
        case ended
    }

    /// Reads what has come.
    func read() -> Input {
        var lines: [[UInt8]] = []
        var space = [UInt8](repeating: 0, count: 16_384)
        for _ in 0..<16 {
            var received: [Int32] = Array(repeating: -1, count: 4)
            var count = 0
            let length = unsafe clinux_receive_descriptors(socket.raw, &space, space.count, &received, 4, &count)
            for raw in received.prefix(count) {
                if descriptors.count < 4 { descriptors.append(raw) } else { Glibc.close(raw) }
            }
            if length == 0 { return .ended }
            guard length > 0 else {
                if clinux_errno() == EINTR { continue }
                return clinux_errno() == EAGAIN ? .lines(lines) : .ended
            }
            input += space[..<length]
            while let end = input.firstIndex(of: 10) {
                lines.append(Array(input[..<end]))
                input.removeFirst(end + 1)
            }
            guard input.count <= FabricRequest.sizeLimit else { return .tooLong }
        }
        return .lines(lines)
    }

    /// The descriptor that came with a request.
    func takeDescriptor() -> Descriptor? {
        descriptors.isEmpty ? nil : Descriptor(owning: descriptors.removeFirst())
    }

    /// Adds a line to what goes out; false where the other side reads nothing of all that it asks for.
    func write(_ line: [UInt8]) -> Bool {
        output += line
        output.append(10)
        return output.count <= FabricReply.sizeLimit && flush()
    }

    var isBlocked: Bool { !output.isEmpty }

    /// Writes what the other side takes; false when it has gone.
    func flush() -> Bool {
        while !output.isEmpty {
            let count = unsafe output.withUnsafeBytes {
                unsafe Glibc.send(socket.raw, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return clinux_errno() == EAGAIN || clinux_errno() == EINTR }
            output.removeFirst(count)
        }
        return true
    }
}
