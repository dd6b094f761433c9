// SPDX-License-Identifier: Apache-2.0

internal import FoundationEssentials
internal import Glibc
internal import Platform

/// What a registry wants to see from a user.
package enum Credentials: Equatable, Sendable {
    case password(user: String, password: String)
    /// A refresh token, to be exchanged at the token service.
    case identityToken(String)
}

/// Looks up logins where docker, podman and skopeo put them: docker's configuration with its helpers, then the
/// containers' authentication file. Nothing is read before the first question.
package struct CredentialStore: Sendable {
    /// Files in docker's form, first match wins.
    let files: [String]
    let environment: [String]
    let helperTimeoutInSeconds: Int
    /// A login that is given rather than looked up.
    var fixed: Credentials?

    /// One login for every registry.
    package init(fixed: Credentials) {
        self.init(files: [], environment: [])
        self.fixed = fixed
    }

    package init(files: [String], environment: [String], helperTimeoutInSeconds: Int = 60) {
        self.files = files
        self.environment = environment
        self.helperTimeoutInSeconds = helperTimeoutInSeconds
    }

    /// The files of the user of this process.
    package init(environment: [String] = processEnvironment()) {
        func value(_ name: String) -> String? {
            environment.first { $0.hasPrefix(name + "=") }.map { String($0.dropFirst(name.count + 1)) }
                .flatMap { $0.isEmpty ? nil : $0 }
        }
        var files: [String] = []
        if let file = value("REGISTRY_AUTH_FILE") { files.append(file) }
        if let directory = value("DOCKER_CONFIG") {
            files.append(directory + "/config.json")
        } else if let home = value("HOME") {
            files.append(home + "/.docker/config.json")
        }
        if let runtime = value("XDG_RUNTIME_DIR") { files.append(runtime + "/containers/auth.json") }
        self.init(files: files, environment: environment)
    }

    /// The login for a repository of a registry (`docker.io` for Docker's own), or nil where there is none.
    package func credentials(
        registry: String, repository: String
    ) async throws(OCIError) -> Credentials? {
        if let fixed { return fixed }
        for path in files {
            let bytes: [UInt8]
            do throws(SystemError) {
                bytes = try Files.read(path, limit: 4 << 20)
            } catch {
                if error.code == ENOENT || error.code == ENOTDIR || error.code == EACCES { continue }
                throw .system(error)
            }
            let file = try decodeJSON(AuthenticationFile.self, bytes, what: path)
            if let helper = file.helper(for: registry) {
                let server = registry == "docker.io" ? AuthenticationFile.dockerHubKey : registry
                let found = try await askHelper(helper, server: server)
                if let found { return found }
            }
            if let entry = file.entry(registry: registry, repository: repository),
                let found = try entry.credentials(path)
            {
                return found
            }
        }
        return nil
    }
}

/// Docker's `config.json` as far as it concerns logins; `auth.json` of the containers' tools has the same form.
private struct AuthenticationFile: Decodable {
    static let dockerHubKey = "https://index.docker.io/v1/"

    var auths: [String: Entry]?
    var credHelpers: [String: String]?
    var credsStore: String?

    struct Entry: Decodable {
        var auth: String?
        var username: String?
        var password: String?
        var identitytoken: String?

        func credentials(_ path: String) throws(OCIError) -> Credentials? {
            if let token = identitytoken, !token.isEmpty { return .identityToken(token) }
            if let auth, !auth.isEmpty {
                guard let data = Data(base64Encoded: auth) else {
                    throw .malformed(what: path, reason: "an \"auth\" is not base64; log in anew")
                }
                let text = String(decoding: data, as: UTF8.self).filter { $0 != "\0" }
                guard let colon = text.firstIndex(of: ":") else {
                    throw .malformed(what: path, reason: "an \"auth\" has no colon; log in anew")
                }
                return .password(user: String(text[..<colon]), password: String(text[text.index(after: colon)...]))
            }
            if let username, let password, !username.isEmpty { return .password(user: username, password: password) }
            return nil
        }
    }

    func helper(for registry: String) -> String? {
        let own = credHelpers?.first { AuthenticationFile.host(of: $0.key) == registry }?.value
        guard let name = own ?? credsStore, !name.isEmpty else { return nil }
        return name
    }

    /// The entry of the longest path that the repository lies in, else the host's.
    func entry(registry: String, repository: String) -> Entry? {
        guard let auths else { return nil }
        var scope = "\(registry)/\(repository)"
        while true {
            if let entry = auths[scope] { return entry }
            guard let slash = scope.lastIndex(of: "/") else { break }
            scope = String(scope[..<slash])
        }
        // Sorted, so that two keys for one host always give the same answer.
        return auths.sorted { $0.key < $1.key }.first { AuthenticationFile.host(of: $0.key) == registry }?.value
    }

    /// `https://index.docker.io/v1/` and its like, as docker writes keys, brought down to the registry's name.
    static func host(of key: String) -> String {
        var rest = key[...]
        for scheme in ["https://", "http://"] where rest.hasPrefix(scheme) { rest = rest.dropFirst(scheme.count) }
        let isURL = rest.startIndex != key.startIndex
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        let (host, path) = (rest[..<slash], rest[slash...])
        // Without a scheme a path is a namespace, unless it is the old API's.
        guard isURL || path.isEmpty || path == "/" || path.hasPrefix("/v1") || path.hasPrefix("/v2") else { return key }
        return host == "index.docker.io" || host == "registry-1.docker.io" ? "docker.io" : String(host)
    }
}
