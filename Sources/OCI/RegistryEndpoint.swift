// SPDX-License-Identifier: Apache-2.0

internal import AsyncHTTPClient
internal import NIOHTTP1

/// The endpoints found so far.
actor EndpointCache {
    private var found: [String: RegistryEndpoint] = [:]

    subscript(registry: String) -> RegistryEndpoint? { found[registry] }

    func set(_ endpoint: RegistryEndpoint, for registry: String) { found[registry] = endpoint }
}

extension RegistryClient {
    /// How a reference's registry is reached: by HTTPS. On this machine's own addresses plain HTTP comes first, since
    /// nobody can listen in there; for a registry named as insecure HTTPS comes first, with any certificate.
    func endpoint(for reference: ImageReference) async throws(OCIError) -> RegistryEndpoint {
        if let known = await endpoints[reference.registry] { return known }
        guard let (host, port) = HostName.split(reference.host[...]) else {
            throw .badReference(reference.description, reason: "its registry is not a host")
        }
        func candidate(_ scheme: String, _ verifying: Bool) -> RegistryEndpoint {
            RegistryEndpoint(
                origin: RegistryURL(scheme: scheme, host: host, port: port, target: "/v2/"),
                verifyingCertificate: verifying)
        }
        let insecure = options.insecureRegistries.contains { $0 == reference.host || $0 == host }
        let loopback = HostName.isLoopback(host)
        let endpoint: RegistryEndpoint
        if !insecure && !loopback {
            endpoint = candidate("https", true)
        } else {
            let http = candidate("http", true)
            let https = candidate("https", !insecure)
            endpoint = try await firstAnswering(loopback ? [http, https] : [https, http], reference.registry)
        }
        await endpoints.set(endpoint, for: reference.registry)
        return endpoint
    }

    /// Asks each for the API's root, without a login, until one answers.
    private func firstAnswering(
        _ candidates: [RegistryEndpoint], _ registry: String
    ) async throws(OCIError) -> RegistryEndpoint {
        var failure: TransportFailure?
        var fallback: RegistryEndpoint?
        for candidate in candidates {
            do throws(TransportFailure) {
                let answer = try await transport.send(
                    candidate.origin, headers: headers(), verifyingCertificate: candidate.verifyingCertificate,
                    answerTimeoutInSeconds: min(options.connectTimeoutInSeconds, 10))
                await answer.discardBody()
                // What a server of HTTPS says to a request in plain HTTP, if it says anything.
                if answer.status != .badRequest { return candidate }
                fallback = candidate
            } catch {
                switch error.kind {
                case .cancelled: throw .cancelled
                case .untrusted: throw .untrusted(host: registry, reason: error.reason)
                // Nobody listens at the one port that it may be, whatever is spoken there.
                case .noConnection where candidate.origin.port != nil:
                    throw .unreachable(host: registry, reason: error.reason)
                default: failure = failure ?? error
                }
            }
        }
        if let fallback { return fallback }
        throw .unreachable(host: registry, reason: failure?.reason ?? "no answer")
    }

    func headers() -> HTTPHeaders {
        ["User-Agent": options.userAgent]
    }
}
