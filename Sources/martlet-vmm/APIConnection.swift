// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import MachineAPI
internal import Platform

/// A client's connection, of which at most one request is kept and what of the answers its socket has not taken.
///
/// It is open until the client ends its side or asks for the end, or until what it sends is no request. Then what was
/// answered is still written. After bad input what follows is read and thrown away for a while: a client that is still
/// sending would otherwise see its connection break before it reads why.
final class APIConnection {
    private enum State {
        case open
        /// No more requests are taken.
        case ending
        /// The last answer is written; what comes is thrown away, so many bytes at most.
        case draining(Int)
        case ended
    }

    /// Above this no further request is served until the client has read.
    private static let outputLimit = 64 << 10
    private static let drainLimit = 1 << 20

    let socket: Descriptor
    /// What epoll was told to watch.
    var watched: Readiness = .readable

    private var reader: HTTPRequestReader
    private var output: [UInt8] = []
    private var written = 0
    private var state = State.open
    private var hasInputEnded = false
    private var isFaulty = false

    init(_ socket: consuming Descriptor, bodyLimit: Int) {
        self.socket = socket
        reader = HTTPRequestReader(bodyLimit: bodyLimit)
    }

    var hasEnded: Bool { if case .ended = state { true } else { false } }

    private var isBlocked: Bool { output.count - written > Self.outputLimit }

    /// What the connection waits for.
    var interest: Readiness {
        var interest: Readiness = []
        if !hasInputEnded, !isBlocked { interest.insert(.readable) }
        if written < output.count { interest.insert(.writable) }
        return interest
    }

    /// Takes what has come, one buffer's worth.
    func read(_ buffer: inout [UInt8]) {
        guard !hasInputEnded, !isBlocked else { return }
        let transfer = unsafe buffer.withUnsafeMutableBytes { space in unsafe try? socket.read(into: space) }
        switch transfer {
        case nil: state = .ended
        case .wouldBlock: break
        case .endOfFile: hasInputEnded = true
        case .bytes(let count):
            if case .open = state { reader.append(buffer[..<count]) }
            guard case .draining(let left) = state else { return }
            state = left > count ? .draining(left - count) : .ended
        }
    }

    /// The next request that has come whole, while answers find room.
    func nextRequest() -> HTTPRequest? {
        guard case .open = state, !isBlocked else { return nil }
        while true {
            do throws(HTTPSyntaxError) {
                switch try reader.next() {
                case .request(let request): return request
                case .expectsLeave: output += HTTPResponse.goOn
                case .incomplete:
                    if hasInputEnded { state = .ending }
                    return nil
                }
            } catch {
                isFaulty = true
                answer(.fault(error), closing: true)
                return nil
            }
        }
    }

    func answer(_ response: HTTPResponse, closing: Bool) {
        var response = response
        if closing {
            response.closesConnection = true
            state = .ending
        }
        if written > 0 {
            output.removeSubrange(..<written)
            written = 0
        }
        output += response.bytes
    }

    /// Writes what the socket takes.
    func write() {
        while written < output.count {
            let start = written
            let transfer = unsafe output.withUnsafeBytes { bytes in
                unsafe try? socket.write(UnsafeRawBufferPointer(rebasing: bytes[start...]))
            }
            guard let transfer else {
                state = .ended
                return
            }
            guard case .bytes(let count) = transfer else { return }
            written += count
        }
        output.removeAll(keepingCapacity: output.capacity <= Self.outputLimit)
        written = 0
        guard case .ending = state else { return }
        guard isFaulty, !hasInputEnded else {
            state = .ended
            return
        }
        _ = shutdown(socket.raw, Int32(SHUT_WR))
        state = .draining(Self.drainLimit)
    }
}
