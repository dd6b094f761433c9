// SPDX-License-Identifier: Apache-2.0

internal import AsyncHTTPClient
internal import NIOCore
internal import NIOHTTP1

/// Why one attempt came to nothing, and whether another is worth while.
enum AttemptFailure: Error {
    case final(OCIError)
    /// - Parameters:
    ///   - after: the seconds that the server asks us to wait.
    ///   - progressed: something was gained, so that this attempt does not count.
    case transient(OCIError, after: Int?, progressed: Bool)
}

extension RegistryClient {
    /// Makes attempts until one succeeds, one fails for good, or there have been enough.
    func withRetries<Result: Sendable>(
        host: String, _ attempt: () async throws(AttemptFailure) -> Result
    ) async throws(OCIError) -> Result {
        let policy = options.retries
        var failed = 0
        var total = 0
        while true {
            do throws(AttemptFailure) {
                return try await attempt()
            } catch {
                switch error {
                case .final(let error): throw error
                case .transient(let error, let asked, let progressed):
                    failed = progressed ? 1 : failed + 1
                    total += 1
                    guard failed < policy.attempts, total < 20 * policy.attempts else { throw error }
                    if let asked, asked > policy.longestAskedDelayInSeconds { throw error }
                    let own = policy.delayInMilliseconds(after: failed, fraction: Double.random(in: 0...1))
                    let delay = max(own, (asked ?? 0) * 1000)
                    do {
                        try await Task.sleep(nanoseconds: UInt64(delay) * 1_000_000)
                    } catch {
                        throw .cancelled
                    }
                }
            }
        }
    }

    /// Fetches a small document whole.
    func document(
        _ path: String, accept: [String], limit: Int, what: String, of reference: ImageReference,
        at endpoint: RegistryEndpoint
    ) async throws(OCIError) -> (bytes: [UInt8], mediaType: String?) {
        var headers = self.headers()
        for type in accept { headers.add(name: "Accept", value: type) }
        let request = RegistryRequest(
            url: endpoint.url(reference.repository, path), headers: headers, reference: reference, endpoint: endpoint,
            what: what)
        return try await withRetries(host: reference.registry) { () async throws(AttemptFailure) in
            let answer = try await self.answer(to: request)
            let bytes = try await self.successBody(
                answer, host: reference.registry, what: what, limit: limit, image: request)
            let type = answer.headers.first(name: "Content-Type")
            if let type, MediaType.essence(type) == "text/html" {
                throw .final(.notRegistry(host: reference.registry, what: what, came: describePage(bytes)))
            }
            return (bytes, type)
        }
    }

    /// Sends a request, follows redirects, and logs in where asked to. What comes back is no redirect, and no 401.
    func answer(to request: RegistryRequest) async throws(AttemptFailure) -> HTTPClientResponse {
        let endpoint = request.endpoint
        let key = Authorizer.Key(origin: endpoint.origin.origin, repository: request.reference.repository)
        var url = request.url
        var authorizations = 0
        var redirects = 0
        while true {
            var headers = request.headers
            // Logins are the registry's alone: whoever it redirects to has been given what he needs in the address.
            let home = url.origin == endpoint.origin.origin
            let authorization = home ? await authorizer.current(key) : nil
            if let authorization { headers.add(name: "Authorization", value: authorization) }
            let answer: HTTPClientResponse
            do throws(TransportFailure) {
                answer = try await transport.send(
                    url, headers: headers,
                    verifyingCertificate: endpoint.verifyingCertificate || url.host != endpoint.origin.host)
            } catch {
                throw attemptFailure(error, host: url.authority, what: request.what)
            }
            switch answer.status.code {
            case 301, 302, 303, 307, 308:
                await answer.discardBody()
                redirects += 1
                url = try redirected(answer, from: url, count: redirects, request)
            case 401 where home && authorizations < 2:
                await answer.discardBody()
                authorizations += 1
                let challenges = answer.headers["WWW-Authenticate"].flatMap(AuthenticationChallenge.parse)
                do throws(OCIError) {
                    _ = try await authorize(
                        challenges, reference: request.reference, endpoint: endpoint, refused: authorization)
                } catch {
                    throw .final(error)
                }
            default:
                return answer
            }
        }
    }

    private func redirected(
        _ answer: HTTPClientResponse, from url: RegistryURL, count: Int, _ request: RegistryRequest
    ) throws(AttemptFailure) -> RegistryURL {
        let host = request.reference.registry
        guard count <= 10 else {
            throw .final(.notRegistry(host: host, what: request.what, came: "redirects without end"))
        }
        guard let location = answer.headers.first(name: "Location"), let next = url.resolving(location) else {
            throw .final(.notRegistry(host: host, what: request.what, came: "a redirect that leads nowhere"))
        }
        guard next.isSecure || !url.isSecure else {
            throw .final(
                .notRegistry(
                    host: host, what: request.what,
                    came: "a redirect from HTTPS to plain HTTP at \(printable(next.authority))"))
        }
        return next
    }

    /// The body of an answer that should be a success.
    /// - Parameter image: the request, where a refusal tells of the image and not just of the request.
    func successBody(
        _ answer: HTTPClientResponse, host: String, what: String, limit: Int, image: RegistryRequest? = nil
    ) async throws(AttemptFailure) -> [UInt8] {
        guard answer.status == .ok else { throw await refusal(answer, host: host, what: what, image: image) }
        let (bytes, end) = await answer.collectBody(limit: limit, idleTimeoutInSeconds: options.idleTimeoutInSeconds)
        guard let bytes else { throw .final(.tooLarge(what: what, limit: Int64(limit))) }
        switch end {
        case .complete: return bytes
        case .stalled: throw .final(.stalled(host: host, what: what, seconds: options.idleTimeoutInSeconds))
        case .stopped: throw .final(.cancelled)
        case .failed(let failure): throw attemptFailure(failure, host: host, what: what)
        }
    }

    /// What an answer's status that is no success means.
    func refusal(
        _ answer: HTTPClientResponse, host: String, what: String, image request: RegistryRequest? = nil
    ) async -> AttemptFailure {
        let (bytes, _) = await answer.collectBody(limit: 64 * 1024, idleTimeoutInSeconds: 10)
        let isPage = answer.headers.first(name: "Content-Type").map(MediaType.essence) == "text/html"
        let detail = isPage ? describePage(bytes ?? []) : RegistryErrors.text(bytes ?? [])
        let status = Int(answer.status.code)
        let error = OCIError.refused(host: host, what: what, status: status, detail: detail)
        switch (status, request) {
        case (404, .some(let request)) where request.isForManifest:
            return .final(.notFound(image: request.reference.description, registry: request.reference.registry))
        case (401, .some(let request)), (403, .some(let request)):
            let key = Authorizer.Key(origin: request.endpoint.origin.origin, repository: request.reference.repository)
            return .final(
                .loginNeeded(
                    image: request.reference.description, registry: request.reference.registry,
                    hadCredentials: await authorizer.hadLogin(key), detail: detail))
        case (408, _), (429, _), (500, _), (502, _), (503, _), (504, _):
            let after = answer.headers.first(name: "Retry-After").flatMap { Int($0) }.map { max(0, $0) }
            return .transient(error, after: after, progressed: false)
        default:
            return .final(error)
        }
    }

    func attemptFailure(_ failure: TransportFailure, host: String, what: String) -> AttemptFailure {
        let unreachable = OCIError.unreachable(host: host, reason: failure.reason)
        switch failure.kind {
        case .cancelled: return .final(.cancelled)
        case .untrusted: return .final(.untrusted(host: host, reason: failure.reason))
        case .noAnswer:
            return .final(.stalled(host: host, what: what, seconds: options.answerTimeoutInSeconds))
        case .notTLS, .unusable, .noConnection: return .final(unreachable)
        case .broken: return .transient(unreachable, after: nil, progressed: false)
        }
    }

    func notRegistryIfPage(
        _ answer: HTTPClientResponse, _ error: OCIError, host: String, what: String, _ bytes: [UInt8]
    ) -> OCIError {
        guard answer.headers.first(name: "Content-Type").map(MediaType.essence) == "text/html" else { return error }
        return .notRegistry(host: host, what: what, came: describePage(bytes))
    }
}

/// A request to a registry's API.
struct RegistryRequest: Sendable {
    let url: RegistryURL
    let headers: HTTPHeaders
    let reference: ImageReference
    let endpoint: RegistryEndpoint
    /// What is asked for, for errors.
    let what: String

    var isForManifest: Bool { url.target.contains("/manifests/") }
}

/// What a page in HTML says it is: its title, if there is one.
func describePage(_ bytes: [UInt8]) -> String {
    let text = String(decoding: bytes.prefix(16384), as: UTF8.self)
    let lowered = text.lowercased()
    guard let start = lowered.firstRange(of: "<title>"),
        let end = lowered[start.upperBound...].firstRange(of: "</title>")
    else { return "an HTML page" }
    let title = String(lowered[start.upperBound..<end.lowerBound])
    return "an HTML page titled \"\(printable(title, limit: 80))\""
}

/// The errors that a registry's answer lists (OCI distribution specification, error codes).
enum RegistryErrors {
    private struct Document: Decodable {
        var errors: [Entry]?
        var details: String?
    }
    private struct Entry: Decodable {
        var code: String?
        var message: String?
    }

    /// One line, for a user; empty if there is nothing to tell.
    static func text(_ bytes: [UInt8]) -> String {
        guard let document = try? decodeJSON(Document.self, bytes, what: "errors") else {
            let text = printable(String(decoding: bytes.prefix(400), as: UTF8.self), limit: 120)
            return text.allSatisfy { $0 == " " } ? "" : text
        }
        let texts = (document.errors ?? []).prefix(3).map { entry in
            [entry.code, entry.message].compactMap { $0 }.joined(separator: ": ")
        }
        return printable(texts.isEmpty ? document.details ?? "" : texts.joined(separator: "; "), limit: 200)
    }
}
