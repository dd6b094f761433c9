// SPDX-License-Identifier: Apache-2.0
//
// Zone: an actor, so that many downloads that are refused at once ask for one new token.

internal import AsyncHTTPClient
internal import FoundationEssentials
internal import NIOHTTP1

/// Keeps the `Authorization` header for each repository of each registry.
actor Authorizer {
    struct Key: Hashable {
        let origin: String
        let repository: String
    }

    private var headers: [Key: String] = [:]
    private var renewals: [Key: Task<Result<String, OCIError>, Never>] = [:]

    private var loggedIn: Set<Key> = []

    func current(_ key: Key) -> String? { headers[key] }

    /// Whether a user's login was sent for it, for errors.
    func hadLogin(_ key: Key) -> Bool { loggedIn.contains(key) }

    func noteLogin(_ key: Key) { loggedIn.insert(key) }

    /// A header other than the one that was refused.
    func renew(
        _ key: Key, refused: String?, _ make: @escaping @Sendable () async throws(OCIError) -> String
    ) async throws(OCIError) -> String {
        if let header = headers[key], header != refused { return header }
        let renewal: Task<Result<String, OCIError>, Never>
        if let running = renewals[key] {
            renewal = running
        } else {
            renewal = Task {
                do throws(OCIError) { return .success(try await make()) } catch { return .failure(error) }
            }
            renewals[key] = renewal
        }
        let result = await renewal.value
        renewals[key] = nil
        if case .success(let header) = result { headers[key] = header }
        return try result.get()
    }
}

extension RegistryClient {
    /// Answers a registry's challenges with a new `Authorization` header.
    func authorize(
        _ challenges: [AuthenticationChallenge], reference: ImageReference, endpoint: RegistryEndpoint,
        refused: String?
    ) async throws(OCIError) -> String {
        let key = Authorizer.Key(origin: endpoint.origin.origin, repository: reference.repository)
        return try await authorizer.renew(key, refused: refused) { () async throws(OCIError) -> String in
            let login = try await self.options.credentials.credentials(
                registry: reference.registry, repository: reference.repository)
            if login != nil { await self.authorizer.noteLogin(key) }
            if let bearer = challenges.first(where: { $0.scheme == "bearer" }) {
                return try await self.bearerHeader(bearer, reference, endpoint, login)
            }
            guard challenges.contains(where: { $0.scheme == "basic" }) else {
                let schemes = challenges.map(\.scheme).joined(separator: ", ")
                throw .unsupported(
                    what: "the registry \(reference.registry)",
                    reason: "it wants a login of a kind that is not supported (\(printable(schemes)))")
            }
            guard case .password(let user, let password) = login else {
                throw .loginNeeded(
                    image: reference.description, registry: reference.registry, hadCredentials: login != nil, detail: ""
                )
            }
            let header = basicHeader(user: user, password: password)
            guard header != refused else {
                throw .loginNeeded(
                    image: reference.description, registry: reference.registry, hadCredentials: true, detail: "")
            }
            return header
        }
    }

    /// Fetches a token (Docker's token authentication specification).
    private func bearerHeader(
        _ challenge: AuthenticationChallenge, _ reference: ImageReference, _ endpoint: RegistryEndpoint,
        _ login: Credentials?
    ) async throws(OCIError) -> String {
        let what = "a token for \(reference.registry)"
        guard let realm = challenge.parameters["realm"], let service = RegistryURL(realm) else {
            throw .malformed(what: "the login challenge of \(reference.registry)", reason: "it has no usable realm")
        }
        // A secure registry cannot make us send a login in the clear.
        guard service.isSecure || !endpoint.origin.isSecure else {
            throw .malformed(
                what: "the login challenge of \(reference.registry)",
                reason: "its token service \(printable(service.authority)) is not secure")
        }
        let scope = "repository:\(reference.repository):pull"
        let serviceName = challenge.parameters["service"] ?? ""
        let client = self
        return try await withRetries(host: service.authority) { () async throws(AttemptFailure) -> String in
            let answer: HTTPClientResponse
            do throws(TransportFailure) {
                let verifying = endpoint.verifyingCertificate || service.host != endpoint.origin.host
                answer = try await client.askForToken(
                    service, serviceName: serviceName, scope: scope, login: login, verifyingCertificate: verifying)
            } catch {
                throw client.attemptFailure(error, host: service.authority, what: what)
            }
            if answer.status == .unauthorized || answer.status == .forbidden {
                await answer.discardBody()
                throw .final(
                    .loginNeeded(
                        image: reference.description, registry: reference.registry, hadCredentials: login != nil,
                        detail: "its token service refuses"))
            }
            let bytes = try await client.successBody(
                answer, host: service.authority, what: what, limit: 256 * 1024)
            do throws(OCIError) {
                let token = try decodeJSON(TokenAnswer.self, bytes, what: "the token from \(service.authority)")
                guard let text = token.text, text.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) else {
                    throw .malformed(what: "the token from \(service.authority)", reason: "there is none in the answer")
                }
                return "Bearer \(text)"
            } catch {
                throw .final(client.notRegistryIfPage(answer, error, host: service.authority, what: what, bytes))
            }
        }
    }

    private func askForToken(
        _ service: RegistryURL, serviceName: String, scope: String, login: Credentials?, verifyingCertificate: Bool
    ) async throws(TransportFailure) -> HTTPClientResponse {
        var fields = ["scope=\(RegistryURL.escape(scope))"]
        if !serviceName.isEmpty { fields.insert("service=\(RegistryURL.escape(serviceName))", at: 0) }
        var headers = self.headers()
        headers.add(name: "Accept", value: "application/json")
        if case .identityToken(let token) = login {
            fields += [
                "grant_type=refresh_token", "client_id=\(RegistryURL.escape(options.userAgent))",
                "refresh_token=\(RegistryURL.escape(token))",
            ]
            headers.add(name: "Content-Type", value: "application/x-www-form-urlencoded")
            return try await transport.send(
                service, method: .POST, headers: headers, body: Array(fields.joined(separator: "&").utf8),
                verifyingCertificate: verifyingCertificate)
        }
        if case .password(let user, let password) = login {
            fields.append("account=\(RegistryURL.escape(user))")
            headers.add(name: "Authorization", value: basicHeader(user: user, password: password))
        }
        let separator = service.target.contains("?") ? "&" : "?"
        let url = RegistryURL(
            scheme: service.scheme, host: service.host, port: service.port,
            target: service.target + separator + fields.joined(separator: "&"))
        return try await transport.send(url, headers: headers, verifyingCertificate: verifyingCertificate)
    }
}

private struct TokenAnswer: Decodable {
    var token: String?
    var access_token: String?

    var text: String? {
        [token, access_token].compactMap { $0 }.first { !$0.isEmpty }
    }
}

func basicHeader(user: String, password: String) -> String {
    "Basic " + Data("\(user):\(password)".utf8).base64EncodedString()
}
