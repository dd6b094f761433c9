// SPDX-License-Identifier: Apache-2.0
//
// An HTTP server on loopback whose answers a test scripts, good and bad ones.

internal import NIOCore
package import NIOHTTP1
internal import NIOPosix
internal import NIOSSL
internal import Synchronization

/// A request as a test's script sees it.
package struct TestRequest: Sendable {
    package let method: HTTPMethod
    package let uri: String
    package let headers: HTTPHeaders
    package let body: [UInt8]
    /// How many requests for the same address came before.
    package let repetition: Int
}

/// What the server does with a request.
package struct TestAnswer: Sendable {
    package enum Ending: Sendable {
        case complete
        /// The connection is closed after so many bytes of the body.
        case dropAfter(Int)
        /// Nothing more comes after so many bytes of the body, and the connection stays.
        case stallAfter(Int)
        /// Not even a head comes.
        case silence
        /// The connection is closed without an answer.
        case hangUp
    }

    package var status: HTTPResponseStatus
    package var headers: HTTPHeaders
    package var body: [UInt8]
    package var ending = Ending.complete

    package init(
        _ status: HTTPResponseStatus, _ headers: HTTPHeaders = [:], body: [UInt8] = [], ending: Ending = .complete
    ) {
        self.status = status
        self.headers = headers
        self.body = body
        self.ending = ending
    }
}

/// The server. Requests are answered on NIO's threads, by a script that must not block.
package final class TestServer: Sendable {
    package typealias Script = @Sendable (TestRequest) -> TestAnswer

    private let channel: any Channel
    private let log: RequestLog
    package let port: Int

    /// `127.0.0.1:PORT`.
    package var host: String { "127.0.0.1:\(port)" }

    package init(tls: Bool = false, rawAnswer: [UInt8]? = nil, _ script: @escaping Script) async throws {
        let log = RequestLog()
        let context = try tls ? TestServer.tlsContext() : nil
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let rawAnswer {
                        try channel.pipeline.syncOperations.addHandler(RawHandler(answer: rawAnswer))
                        return
                    }
                    if let context {
                        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
                    }
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(withErrorHandling: false)
                    try channel.pipeline.syncOperations.addHandler(ScriptHandler(script: script, log: log))
                }
            }
        self.channel = try await bootstrap.bind(host: "127.0.0.1", port: 0).get()
        self.log = log
        self.port = channel.localAddress?.port ?? 0
    }

    package func close() async {
        try? await channel.close()
    }

    /// All requests so far, in order: `GET /v2/`.
    package var requests: [String] { log.lines }

    /// All requests with their headers.
    package var records: [TestRequest] { log.records }

    private static func tlsContext() throws -> NIOSSLContext {
        let chain = try NIOSSLCertificate.fromPEMBytes(Array(testCertificate.utf8))
        let key = try NIOSSLPrivateKey(bytes: Array(testKey.utf8), format: .pem)
        return try NIOSSLContext(
            configuration: .makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key)))
    }
}

private final class RequestLog: Sendable {
    private let state = Mutex<[TestRequest]>([])

    var records: [TestRequest] { state.withLock { $0 } }
    var lines: [String] { records.map { "\($0.method.rawValue) \($0.uri)" } }

    func add(_ head: HTTPRequestHead, body: [UInt8]) -> TestRequest {
        state.withLock { all in
            let request = TestRequest(
                method: head.method, uri: head.uri, headers: head.headers, body: body,
                repetition: all.filter { $0.uri == head.uri }.count)
            all.append(request)
            return request
        }
    }
}

private final class ScriptHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let script: TestServer.Script
    private let log: RequestLog
    private var head: HTTPRequestHead?
    private var body: [UInt8] = []

    init(script: @escaping TestServer.Script, log: RequestLog) {
        self.script = script
        self.log = log
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
            body = []
        case .body(let piece):
            body += piece.readableBytesView
        case .end:
            guard let head else { return }
            answer(script(log.add(head, body: body)), to: head, context)
        }
    }

    private func answer(_ answer: TestAnswer, to request: HTTPRequestHead, _ context: ChannelHandlerContext) {
        var headers = answer.headers
        if !headers.contains(name: "Content-Length") {
            headers.add(name: "Content-Length", value: String(answer.body.count))
        }
        let head = HTTPServerResponsePart.head(
            HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers))
        func write(_ count: Int) {
            context.write(wrapOutboundOut(head), promise: nil)
            let buffer = ByteBuffer(bytes: answer.body.prefix(count))
            context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(buffer))), promise: nil)
        }
        switch answer.ending {
        case .complete:
            write(answer.body.count)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        case .dropAfter(let count):
            write(count)
            context.close(promise: nil)
        case .stallAfter(let count):
            write(count)
        case .silence:
            break
        case .hangUp:
            context.close(promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// Answers whatever comes with the same bytes, and hangs up.
private final class RawHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    private let answer: [UInt8]

    init(answer: [UInt8]) { self.answer = answer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: answer))).whenComplete { _ in
            channel.close(promise: nil)
        }
    }
}

/// For localhost and 127.0.0.1, signed by itself; the key is known to everybody.
package let testCertificate = """
    -----BEGIN CERTIFICATE-----
    MIIBmzCCAUGgAwIBAgIUPx1tmEqDMoGGTqWsbp3oi2j/M9YwCgYIKoZIzj0EAwIw
    FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTAwNTQyOFoYDzIxMjYxMDI4
    MDA1NDI4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
    PQMBBwNCAARi+LHjEwzJwTSa7slOceqooomfZlBXNnnunQSz3pqJ0ljgdVl0HPqv
    oK8tIdCx3NbKmcxTBT5HCw+Sz3yrLX1Ko28wbTAdBgNVHQ4EFgQUrg+bwfkT4G6v
    bbNHrXNi5XMxz5cwHwYDVR0jBBgwFoAUrg+bwfkT4G6vbbNHrXNi5XMxz5cwDwYD
    VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
    zj0EAwIDSAAwRQIgKlC6UssctZu3kc0X8yz7rn3Jy/xNtg6Ebbiz0/1CalUCIQCE
    1wcPqbNJRsRn/Y1sNhef/gk+Iah8ZKu4nchlwys4Kg==
    -----END CERTIFICATE-----
    """

let testKey = """
    -----BEGIN PRIVATE KEY-----
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgommA0DvuxdqMCqpL
    Q5GxX8Tt+uk8MVqgNtdBBI0OqXyhRANCAARi+LHjEwzJwTSa7slOceqooomfZlBX
    NnnunQSz3pqJ0ljgdVl0HPqvoK8tIdCx3NbKmcxTBT5HCw+Sz3yrLX1K
    -----END PRIVATE KEY-----
    """
