// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// How a registry is talked to.
package struct RegistryOptions: Sendable {
    package var platform = ImagePlatform.host
    /// `HOST` or `HOST:PORT`: a certificate that cannot be verified is accepted there, and so is plain HTTP.
    package var insecureRegistries: Set<String> = []
    /// A file with the certificates of authorities to be trusted, instead of the system's.
    package var trustRootsFile: String?
    package var credentials: CredentialStore
    package var proxies: ProxySettings
    /// Time for a connection, with its TLS handshake.
    package var connectTimeoutInSeconds = 30
    /// Time from a request to the head of its answer.
    package var answerTimeoutInSeconds = 30
    /// Time between two pieces of an answer's body.
    package var idleTimeoutInSeconds = 60
    package var retries = RetryPolicy()
    package var userAgent = "martlet"

    package init(environment: [String] = processEnvironment()) {
        credentials = CredentialStore(environment: environment)
        proxies = ProxySettings(environment: environment)
        trustRootsFile = environment.first { $0.hasPrefix("SSL_CERT_FILE=") }.map { String($0.dropFirst(14)) }
    }
}

/// How often a request is made again, and after how long.
package struct RetryPolicy: Sendable {
    /// Requests in all, without progress between them.
    package var attempts = 5
    package var firstDelayInMilliseconds = 500
    package var longestDelayInMilliseconds = 20_000
    /// A registry that asks for a longer pause is not waited for.
    package var longestAskedDelayInSeconds = 120

    package init() {}

    /// The pause before the next attempt.
    /// - Parameters:
    ///   - attempt: how many have failed, at least 1.
    ///   - fraction: where between half the pause and the whole of it, 0 to 1, so that many clients part.
    func delayInMilliseconds(after attempt: Int, fraction: Double) -> Int {
        let doubled = firstDelayInMilliseconds << min(max(attempt - 1, 0), 10)
        let full = min(doubled, longestDelayInMilliseconds)
        return full / 2 + Int(Double(full) / 2 * fraction)
    }
}

/// Which proxy an address is reached through: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, as Go's programs take them.
/// An HTTP proxy is asked for a tunnel (CONNECT), for plain HTTP too.
package struct ProxySettings: Hashable, Sendable {
    struct Proxy: Hashable, Sendable {
        let host: String
        let port: Int
        let user: String?
        let password: String?
        let isSOCKS: Bool
    }

    var http: Proxy?
    var https: Proxy?
    /// Host names, domains, addresses; `*` for all.
    var exceptions: [String] = []

    package init(environment: [String]) {
        func value(_ name: String) -> String? {
            for candidate in [name, name.lowercased()] {
                if let entry = environment.first(where: { $0.hasPrefix(candidate + "=") }) {
                    return String(entry.dropFirst(candidate.count + 1))
                }
            }
            return nil
        }
        http = value("HTTP_PROXY").flatMap(ProxySettings.parse)
        https = value("HTTPS_PROXY").flatMap(ProxySettings.parse)
        exceptions = (value("NO_PROXY") ?? "").split(separator: ",")
            .map { $0.filter { $0 != " " }.lowercased() }.filter { !$0.isEmpty }
    }

    /// The proxy for a host (lower case, without brackets), or nil to go there directly; this machine is never proxied.
    func proxy(secure: Bool, host: String, port: Int) -> Proxy? {
        guard let proxy = secure ? https : http, !HostName.isLoopback(host) else { return nil }
        for exception in exceptions {
            if exception == "*" { return nil }
            var name = exception
            if let colon = name.lastIndex(of: ":"), let own = Int(name[name.index(after: colon)...]),
                name.filter({ $0 == ":" }).count == 1
            {
                guard own == port else { continue }
                name = String(name[..<colon])
            }
            if name.hasPrefix("*.") { name = String(name.dropFirst()) }
            if name.hasPrefix(".") ? host.hasSuffix(name) : host == name || host.hasSuffix("." + name) { return nil }
            if HostName.isAddress(host, within: name) { return nil }
        }
        return proxy
    }

    private static func parse(_ text: String) -> Proxy? {
        guard !text.isEmpty, let url = RegistryURL(text.contains("://") ? text : "http://" + text, anyScheme: true),
            ["http", "socks5", "socks5h"].contains(url.scheme)
        else { return nil }
        let isSOCKS = url.scheme != "http"
        return Proxy(
            host: url.host, port: url.port ?? (isSOCKS ? 1080 : 80), user: url.user, password: url.password,
            isSOCKS: isSOCKS)
    }
}
