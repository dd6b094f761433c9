// SPDX-License-Identifier: Apache-2.0
//
// Zone: Swift concurrency over NIO's event loops. One request and its answer; what to ask and whether to ask again
// is RegistryClient's.

internal import AsyncHTTPClient
internal import Glibc
internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix
internal import NIOSSL
internal import Platform
internal import Synchronization

/// Why an exchange came to nothing.
struct TransportFailure: Error {
    enum Kind: Equatable {
        /// The name is not known, or nobody listens.
        case noConnection
        /// The other side does not speak TLS.
        case notTLS
        /// The certificate cannot be trusted.
        case untrusted
        /// No connection, or no head of an answer, in time.
        case noAnswer
        /// The connection ended or the answer is no HTTP.
        case broken
        case cancelled
        /// The request itself cannot be sent.
        case unusable
    }
    let kind: Kind
    let reason: String
}

/// Sends requests, with one HTTP client for each proxy in use. Redirects are not followed here.
final class HTTPTransport: Sendable {
    private let options: RegistryOptions
    private let clients = Mutex<[ProxySettings.Proxy?: HTTPClient]>([:])

    init(options: RegistryOptions) {
        self.options = options
    }

    /// Ends all connections; call it exactly once, when no request is under way.
    func shutdown() async {
        let all = clients.withLock { clients in
            defer { clients = [:] }
            return Array(clients.values)
        }
        for client in all { try? await client.shutdown() }
    }

    /// Sends a request and gives the head of the answer, its body yet to be read.
    func send(
        _ url: RegistryURL, method: HTTPMethod = .GET, headers: HTTPHeaders, body: [UInt8]? = nil,
        verifyingCertificate: Bool = true, answerTimeoutInSeconds: Int? = nil
    ) async throws(TransportFailure) -> HTTPClientResponse {
        var request = HTTPClientRequest(url: url.description)
        request.method = method
        request.headers = headers
        if let body { request.body = .bytes(ByteBuffer(bytes: body)) }
        if !verifyingCertificate {
            var tls = TLSConfiguration.makeClientConfiguration()
            tls.certificateVerification = .none
            request.tlsConfiguration = tls
        }
        let seconds = answerTimeoutInSeconds ?? options.connectTimeoutInSeconds + options.answerTimeoutInSeconds
        do {
            return try await client(for: url).execute(request, timeout: .seconds(Int64(seconds)))
        } catch {
            throw TransportFailure(error, secondsWaited: seconds)
        }
    }

    private func client(for url: RegistryURL) -> HTTPClient {
        let proxy = options.proxies.proxy(secure: url.isSecure, host: url.host, port: url.effectivePort)
        return clients.withLock { clients in
            if let client = clients[proxy] { return client }
            let client = HTTPClient(
                eventLoopGroup: MultiThreadedEventLoopGroup.singleton, configuration: configuration(proxy))
            clients[proxy] = client
            return client
        }
    }

    private func configuration(_ proxy: ProxySettings.Proxy?) -> HTTPClient.Configuration {
        var configuration = HTTPClient.Configuration()
        var tls = TLSConfiguration.makeClientConfiguration()
        if let file = options.trustRootsFile { tls.trustRoots = .file(file) }
        configuration.tlsConfiguration = tls
        configuration.redirectConfiguration = .disallow
        configuration.timeout.connect = .seconds(Int64(options.connectTimeoutInSeconds))
        // Several connections of HTTP/1.1 carry layers faster than the streams of one HTTP/2 connection, whose
        // windows are small.
        configuration.httpVersion = .http1Only
        configuration.connectionPool.retryConnectionEstablishment = false
        if let proxy {
            if proxy.isSOCKS {
                configuration.proxy = .socksServer(host: proxy.host, port: proxy.port)
            } else {
                let login = proxy.user.map {
                    HTTPClient.Authorization.basic(username: $0, password: proxy.password ?? "")
                }
                configuration.proxy = .server(host: proxy.host, port: proxy.port, authorization: login)
            }
        }
        return configuration
    }
}

extension TransportFailure {
    /// Sorts an error of the libraries below.
    init(_ error: any Error, secondsWaited: Int) {
        switch error {
        case let failure as TransportFailure:
            self = failure
        case is CancellationError:
            self.init(kind: .cancelled, reason: "cancelled")
        case let error as NIOConnectionError:
            if error.connectionErrors.isEmpty && (error.dnsAError != nil || error.dnsAAAAError != nil) {
                self.init(kind: .noConnection, reason: "the name \(error.host) is not known")
            } else if let first = error.connectionErrors.first?.error {
                let inner = TransportFailure(first, secondsWaited: secondsWaited)
                self.init(kind: inner.kind == .noAnswer ? .noAnswer : .noConnection, reason: inner.reason)
            } else {
                self.init(kind: .noConnection, reason: "no connection")
            }
        case let error as IOError:
            let refused =
                error.errnoCode == ECONNREFUSED || error.errnoCode == EHOSTUNREACH || error.errnoCode == ENETUNREACH
            self.init(kind: refused ? .noConnection : .broken, reason: systemErrorText(error.errnoCode))
        case ChannelError.connectTimeout:
            self.init(kind: .noAnswer, reason: "no connection within \(secondsWaited) s")
        case let error as HTTPClientError:
            self.init(error, secondsWaited: secondsWaited)
        case let error as NIOSSLExtraError:
            self.init(kind: .untrusted, reason: printable(error.description))
        case let error as NIOSSLError:
            self.init(error)
        case is HTTPParserError:
            self.init(kind: .broken, reason: "the answer is not HTTP")
        default:
            self.init(kind: .broken, reason: printable(String(describing: error)))
        }
    }

    private init(_ error: HTTPClientError, secondsWaited: Int) {
        switch error {
        case .cancelled:
            self.init(kind: .cancelled, reason: "cancelled")
        case .deadlineExceeded, .readTimeout, .connectTimeout, .tlsHandshakeTimeout, .httpProxyHandshakeTimeout,
            .socksHandshakeTimeout, .getConnectionFromPoolTimeout:
            self.init(kind: .noAnswer, reason: "no answer within \(secondsWaited) s")
        case .remoteConnectionClosed, .uncleanShutdown:
            self.init(kind: .broken, reason: "the connection was closed")
        case .invalidProxyResponse, .proxyAuthenticationRequired:
            self.init(kind: .noConnection, reason: "the proxy refuses: \(error.shortDescription)")
        case .invalidURL, .emptyHost, .invalidHeaderFieldNames([]), .invalidHeaderFieldValues([]):
            self.init(kind: .unusable, reason: error.shortDescription)
        default:
            self.init(kind: .broken, reason: printable(error.shortDescription))
        }
    }

    private init(_ error: NIOSSLError) {
        let text = String(describing: error)
        if text.contains("CERTIFICATE_VERIFY_FAILED") {
            self.init(kind: .untrusted, reason: "it cannot be verified")
        } else if text.contains("WRONG_VERSION_NUMBER") || text.contains("HTTP_REQUEST") || text.contains("HTTPS_PROXY")
            || text.contains("UNKNOWN_PROTOCOL") || text.contains("INVALID_")
        {
            self.init(kind: .notTLS, reason: "it does not speak TLS")
        } else {
            self.init(kind: .broken, reason: "TLS failed: \(printable(text))")
        }
    }
}

/// Says since when a body's next piece has been waited for; a slow consumer is no stall of the sender.
final class IdleClock: Sendable {
    private let waitingSince = Mutex<UInt64?>(nil)

    func beginWaiting() { waitingSince.withLock { $0 = monotonicNanoseconds() } }
    func endWaiting() { waitingSince.withLock { $0 = nil } }

    /// Nanoseconds until the wait has lasted `limit`; the whole of it while nothing is waited for.
    func remaining(_ limit: UInt64) -> UInt64 {
        guard let since = waitingSince.withLock({ $0 }) else { return limit }
        let passed = monotonicNanoseconds() &- since
        return passed >= limit ? 0 : limit - passed
    }
}

/// How the reading of a body ended.
enum BodyEnd: Sendable {
    case complete
    /// The sender was silent for too long.
    case stalled
    /// The sink wants no more.
    case stopped
    case failed(TransportFailure)
}

extension HTTPClientResponse {
    /// Hands the body's pieces to a sink, which slows the sender down by taking its time and ends it by false.
    func readBody(
        idleTimeoutInSeconds: Int, into sink: @escaping @Sendable (ByteBuffer) async -> Bool
    ) async -> BodyEnd {
        let clock = IdleClock()
        let limit = UInt64(idleTimeoutInSeconds) * 1_000_000_000
        let body = self.body
        return await withTaskGroup(of: BodyEnd?.self) { group in
            group.addTask {
                var pieces = body.makeAsyncIterator()
                do {
                    while true {
                        clock.beginWaiting()
                        let piece = try await pieces.next()
                        clock.endWaiting()
                        guard let piece else { break }
                        if await !sink(piece) { return .stopped }
                    }
                } catch {
                    return .failed(TransportFailure(error, secondsWaited: idleTimeoutInSeconds))
                }
                return Task.isCancelled
                    ? .failed(TransportFailure(kind: .cancelled, reason: "cancelled")) : .complete
            }
            group.addTask {
                while !Task.isCancelled {
                    let remaining = clock.remaining(limit)
                    if remaining == 0 { return .stalled }
                    try? await Task.sleep(nanoseconds: remaining)
                }
                return nil
            }
            // The first end counts; the other task is told to stop and waited for.
            var end: BodyEnd?
            while end == nil, let next = await group.next() { end = next }
            group.cancelAll()
            return end ?? .failed(TransportFailure(kind: .cancelled, reason: "cancelled"))
        }
    }

    /// The whole body; nil when it has more than `limit` bytes.
    func collectBody(
        limit: Int, idleTimeoutInSeconds: Int
    ) async -> (bytes: [UInt8]?, end: BodyEnd) {
        let box = MutexBox<[UInt8]?>([])
        let end = await readBody(idleTimeoutInSeconds: idleTimeoutInSeconds) { piece in
            box.mutex.withLock { bytes in
                guard bytes.map({ $0.count + piece.readableBytes <= limit }) ?? false else {
                    bytes = nil
                    return false
                }
                bytes?.append(contentsOf: piece.readableBytesView)
                return true
            }
        }
        return (box.mutex.withLock { $0 }, end)
    }

    /// Reads and forgets a short body, so that the connection can be used again.
    func discardBody() async {
        _ = await collectBody(limit: 64 * 1024, idleTimeoutInSeconds: 5)
    }
}
