// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Platform
import Sessions
import Testing

private func bytes(_ count: Int, seed: UInt8 = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) ^ seed }
}

private func request(_ arguments: String...) -> ProcessRequest {
    var request = ProcessRequest()
    request.arguments = arguments.map { Array($0.utf8) }
    request.hasInput = true
    return request
}

/// A file that is gone from the file system already.
private func temporaryFile(_ contents: [UInt8] = []) throws -> Descriptor {
    let file = try Descriptor.memoryFile("session-test")
    if !contents.isEmpty {
        try file.writeAll(contents)
        lseek(file.raw, 0, SEEK_SET)
    }
    return file
}

private func contents(_ file: borrowing Descriptor) throws -> [UInt8] {
    lseek(file.raw, 0, SEEK_SET)
    return try file.readAll(limit: 1 << 26)
}

@Suite struct SessionClientTests {
    init() { ignoreBrokenPipes() }

    @Test func requestOutputAndExit() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            let request = try peer.start()
            peer.record = request.arguments.map { String(decoding: $0, as: UTF8.self) }
            try peer.output(Array("out\n".utf8), .output)
            try peer.output(Array("err\n".utf8), .errors)
            try peer.exit(7)
        }
        let output = try temporaryFile()
        let errors = try temporaryFile()
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        var started = 0
        let result = try client.run(
            request("sh", "-c", "x"), streams: SessionStreams(input: nil, output: output.raw, errors: errors.raw),
            onStarted: { started += 1 })
        #expect(result.exitStatus == 7)
        #expect(started == 1)
        #expect(try contents(output) == Array("out\n".utf8))
        #expect(try contents(errors) == Array("err\n".utf8))
        #expect(try peer.join() == ["sh", "-c", "x"])
    }

    /// Hello and request come together; the process starts without being told to.
    @Test func startsAtOnce() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second, sayingHello: false) { peer in
            try peer.expect(.hello)
            let frame = try peer.expect(.request)
            #expect(ProcessRequest(frame.payload)?.startsAtOnce == true)
            try peer.send(Frame(.hello, payload: Hello().payload))
            try peer.send(Frame(.started, session: 1))
            try peer.expect(.end)
            try peer.output(Array("out\n".utf8), .output)
            try peer.exit(7)
        }
        let output = try temporaryFile()
        var client = try SessionClient(socket: pair.first)
        client.helloAhead()
        var request = request("x")
        request.startsAtOnce = true
        var started = 0
        let result = try client.run(
            request, streams: SessionStreams(input: nil, output: output.raw, errors: nil), onStarted: { started += 1 })
        #expect(result.exitStatus == 7)
        #expect(started == 1)
        #expect(try contents(output) == Array("out\n".utf8))
        _ = try peer.join()
    }

    /// A guest that does not know of starts at once accepts, and is told to go; the input ends once.
    @Test func olderGuestsAreToldToGo() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.expect(.request)
            try peer.send(Frame(.accepted, session: 1))
            try peer.expect(.go)
            try peer.expect(.end)
            try peer.send(Frame(.started, session: 1))
            try peer.exit(0)
            peer.record.append("done")
        }
        var client = try SessionClient(socket: pair.first)
        client.helloAhead()
        var request = request("x")
        request.startsAtOnce = true
        let result = try client.run(request, streams: SessionStreams(input: nil, output: nil, errors: nil))
        #expect(result.exitStatus == 0)
        #expect(try peer.join() == ["done"])
    }

    @Test func anotherVersionBehindTheRequest() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second, sayingHello: false) { peer in
            try peer.expect(.hello)
            var hello = Hello()
            hello.major = 9
            try peer.send(Frame(.hello, payload: hello.payload))
        }
        var client = try SessionClient(socket: pair.first)
        client.helloAhead()
        #expect(throws: SessionError.versionMismatch(theirs: 9)) {
            _ = try client.run(request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil))
        }
        _ = try peer.join()
    }

    @Test func signalsAsExitStatus() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            try peer.exit(9, signaled: true)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let result = try client.run(request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil))
        #expect(result.exitStatus == 137)
        _ = try peer.join()
    }

    @Test func refusal() throws {
        let pair = try UnixSocket.pair()
        let refusal = Refusal(exitCode: 127, message: Array("x: not found".utf8))
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.expect(.request)
            try peer.send(Frame(.refused, session: 1, payload: refusal.payload))
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let result = try client.run(request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil))
        #expect(result.outcome == .refused(refusal))
        #expect(result.exitStatus == 127)
        _ = try peer.join()
    }

    /// Input and output of many windows, through every kind of descriptor.
    @Test(arguments: ["file", "pipe", "socket"])
    func bulkThroughBothDirections(kind: String) throws {
        let sent = bytes(1_000_003)
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            let input = try peer.input()
            try peer.output(input, .output)
            try peer.exit(0)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let received: [UInt8]
        switch kind {
        case "file":
            let input = try temporaryFile(sent)
            let output = try temporaryFile()
            let streams = SessionStreams(input: input.raw, output: output.raw, errors: nil)
            #expect(try client.run(request("cat"), streams: streams).exitStatus == 0)
            received = try contents(output)
        case "pipe":
            let source = try Pipe()
            let drain = try Pipe()
            let writer = Pump(writing: sent, to: source.writing)
            let reader = Pump(reading: drain.reading)
            let streams = SessionStreams(input: source.reading.raw, output: drain.writing.raw, errors: nil)
            #expect(try client.run(request("cat"), streams: streams).exitStatus == 0)
            #expect(fcntl(drain.writing.raw, F_GETFL) & O_NONBLOCK == 0)
            #expect(fcntl(source.reading.raw, F_GETFL) & O_NONBLOCK == 0)
            drain.writing.close()
            received = reader.join()
            _ = writer.join()
        default:
            let source = try UnixSocket.pair()
            let drain = try UnixSocket.pair()
            let writer = Pump(writing: sent, to: source.first)
            let reader = Pump(reading: drain.first)
            let streams = SessionStreams(input: source.second.raw, output: drain.second.raw, errors: nil)
            #expect(try client.run(request("cat"), streams: streams).exitStatus == 0)
            drain.second.close()
            received = reader.join()
            _ = writer.join()
        }
        #expect(received == sent)
        _ = try peer.join()
    }

    /// `martlet run … | head -1`: the process is told as a pipe would tell it. If it goes on it gets its credit.
    @Test func readerThatGoesEarly() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            try peer.output(bytes(900_000), .output)
            try peer.exit(3)
            #expect(peer.signals == [13])
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let drain = try Pipe()
        let writing = try drain.writing.duplicate()
        drain.reading.close()
        let streams = SessionStreams(input: nil, output: writing.raw, errors: nil)
        let result = try client.run(request("yes"), streams: streams)
        #expect(result.exitStatus == 3)
        #expect(result.outputFailure == nil)
        _ = try peer.join()
    }

    /// Output that nobody reads must hold back neither the other stream nor the end of the input.
    @Test func blockedOutputHoldsUpNothingElse() throws {
        let pair = try UnixSocket.pair()
        let blocked = try Pipe()
        let errors = try Pipe()
        let blockedReader = try blocked.reading.duplicate()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            // One window full: the pipe takes 64 KiB of it.
            var window = SendWindow()
            for _ in 0..<4 {
                try peer.send(
                    Frame(
                        .data, session: 1, stream: .output, offset: window.send(65_536),
                        payload: bytes(65_536)))
            }
            try peer.output(Array("still heard".utf8), .errors)
            try peer.exit(0)
        }
        let errorText = Pump(reading: errors.reading, until: 11)
        let reader = Pump(waitingFor: errorText, thenReading: blockedReader)
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let streams = SessionStreams(input: nil, output: blocked.writing.raw, errors: errors.writing.raw)
        let result = try client.run(request("x"), streams: streams)
        #expect(result.exitStatus == 0)
        blocked.writing.close()
        errors.writing.close()
        #expect(reader.join().count == 262_144)
        _ = try peer.join()
    }

    @Test func inputThatCannotBeRead() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            peer.record = ["\(try peer.input().count)"]
            try peer.exit(0)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let directory = try Descriptor.open("/", .directory)
        let result = try client.run(
            request("cat"), streams: SessionStreams(input: directory.raw, output: nil, errors: nil))
        #expect(result.inputFailure?.code == EISDIR)
        #expect(try peer.join() == ["0"])
    }

    @Test func fullDiskIsTold() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            try peer.output(bytes(600_000), .output)
            try peer.exit(0)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let full = try Descriptor.open("/dev/full", .writeOnly)
        let result = try client.run(
            request("cat"), streams: SessionStreams(input: nil, output: full.raw, errors: nil))
        #expect(result.outputFailure?.code == ENOSPC)
        #expect(result.exitStatus == 0)
        _ = try peer.join()
    }

    @Test func lostConnection() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in try peer.start() }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        #expect(throws: SessionError.connectionLost) {
            _ = try client.run(request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil))
        }
        _ = try peer.join()
    }

    @Test func failureWithReason() throws {
        let pair = try UnixSocket.pair()
        let reason = Refusal(exitCode: 125, message: Array("the machine ended: panic".utf8))
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            try peer.send(Frame(.failure, payload: reason.payload))
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        #expect(throws: SessionError.failure(reason)) {
            _ = try client.run(request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil))
        }
        _ = try peer.join()
    }

    @Test func otherVersion() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second, sayingHello: false) { peer in
            var hello = Hello()
            hello.major = 9
            try peer.send(Frame(.hello, payload: hello.payload))
        }
        var client = try SessionClient(socket: pair.first)
        #expect(throws: SessionError.versionMismatch(theirs: 9)) { _ = try client.hello() }
        _ = try peer.join()
    }

    @Test func helloThatNeverComes() throws {
        let pair = try UnixSocket.pair()
        var client = try SessionClient(socket: pair.first)
        #expect(throws: SessionError.self) { _ = try client.hello(timeoutInMilliseconds: 1) }
        pair.second.close()
    }

    @Test func attachesWithoutARequest() throws {
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.send(Frame(.accepted, session: 1))
            try peer.expect(.go)
            try peer.send(Frame(.started, session: 1))
            try peer.exit(4)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let result = try client.run(nil, streams: SessionStreams(input: nil, output: nil, errors: nil))
        #expect(result.exitStatus == 4)
        _ = try peer.join()
    }
}

/// Signals are of the whole process; these tests take turns.
@Suite(.serialized) struct SessionSignalTests {
    /// The thread's own mask and a signal sent to this thread keep other tests out of it.
    @Test func signalsPass() throws {
        let queue = try SignalQueue([SIGUSR1, SIGTERM])
        let pair = try UnixSocket.pair()
        let peer = ScriptedPeer(pair.second) { peer in
            try peer.start()
            for _ in 0..<2 {
                let frame = try peer.expect(.signal)
                peer.record.append("\(NumberMessage(payload: frame.payload)?.number ?? 0)")
            }
            try peer.exit(15, signaled: true)
        }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let result = try client.run(
            request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil), signals: queue,
            onStarted: {
                pthread_kill(pthread_self(), SIGUSR1)
                pthread_kill(pthread_self(), SIGTERM)
            })
        #expect(result.exitStatus == 143)
        #expect(try peer.join().sorted() == ["10", "15"])
    }

    @Test func interruptedBeforeItWasAccepted() throws {
        let queue = try SignalQueue([SIGINT])
        let pair = try UnixSocket.pair()
        pthread_kill(pthread_self(), SIGINT)
        let peer = ScriptedPeer(pair.second) { peer in _ = try peer.expect(.request) }
        var client = try SessionClient(socket: pair.first)
        _ = try client.hello()
        let result = try client.run(
            request("x"), streams: SessionStreams(input: nil, output: nil, errors: nil), signals: queue)
        #expect(result.outcome == .interrupted(signal: SIGINT))
        #expect(result.exitStatus == 130)
        client.close()
        _ = try peer.join()
    }
}
