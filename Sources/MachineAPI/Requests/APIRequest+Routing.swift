// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// A request that was understood, and what its answer has to say besides.
package struct RoutedRequest: Equatable, Sendable {
    package var request: APIRequest
    /// Where the request used something that its API will lose: which.
    package var deprecation: String?
}

extension APIRequest {
    /// Finds out what a request asks for.
    /// - Parameter counters: counts the request, and that it failed where it does.
    package static func route(
        _ http: HTTPRequest, _ counters: inout APICounters
    ) throws(RequestFault) -> RoutedRequest {
        let parts = parts(of: http.path)
        let first = parts.first ?? ""
        let second = parts.count > 1 ? parts[1] : nil
        switch (http.method, http.body) {
        case (.get, _?): throw RequestFault("GET request cannot have a body.")
        case (.delete, _?): throw RequestFault("Empty Delete request.")
        case (.put, nil): throw RequestFault("Empty PUT request.")
        case (.patch, nil) where first != "balloon": throw RequestFault("Empty PATCH request.")
        default: break
        }
        if let later = APIRoute.later(http.method, first, second) { return RoutedRequest(request: later) }
        let candidates = APIRoute.all.filter { $0.method == http.method && $0.first == first }
        guard let route = candidates.first(where: { $0.leads(to: second) }) else {
            guard http.method == .put, first == "snapshot" else { throw .unknownPath(http.method, first) }
            guard let second else { throw RequestFault("Missing snapshot operation type.") }
            throw .unknownPath(http.method, "/snapshot/\(second)")
        }
        let group = "\(http.method.rawValue.lowercased())_api_requests"
        if let figure = route.figure { counters.count(group, "\(figure)_count") }
        do throws(RequestFault) {
            return try route.read(http.body ?? [], identifier: second, &counters)
        } catch {
            if let figure = route.figure, http.method != .get { counters.count(group, "\(figure)_fails") }
            throw error
        }
    }

    /// A path's parts; an empty one at its end does not count.
    private static func parts(of path: String) -> [String] {
        var path = Substring(path)
        while path.first == "/" { path.removeFirst() }
        var parts = path.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        if parts.last?.isEmpty == true { parts.removeLast() }
        return parts
    }
}

extension APIRoute {
    fileprivate func leads(to second: String?) -> Bool {
        switch self.second {
        case .none, .identifier: true
        case .word(let word): second == word
        }
    }

    fileprivate func read(
        _ bytes: [UInt8], identifier: String?, _ counters: inout APICounters
    ) throws(RequestFault) -> RoutedRequest {
        if case .identifier = second { try Self.check(identifier) }
        var body = JSON.object(JSONObject())
        if let schema {
            do throws(BodyError) { body = try schema.read(bytes) } catch { throw .body(error) }
        }
        if case .identifier(let name) = second, schema != nil, let given = body[name]?.stringValue,
            given != identifier
        {
            guard first == "network-interfaces" else { throw .otherIdentifier }
            throw RequestFault(
                "The id from the path [\(identifier ?? "")] does not match the id from the body [\(given)]!")
        }
        let request = try make(body, identifier ?? "")
        let deprecation = deprecation(body)
        if deprecation != nil { counters.count("deprecated_api", "deprecated_http_api_calls") }
        return RoutedRequest(request: request, deprecation: deprecation)
    }

    private static func check(_ identifier: String?) throws(RequestFault) {
        guard let identifier, !identifier.isEmpty else { throw .emptyIdentifier }
        guard DeviceIdentifier.hasGoodCharacters(identifier) else { throw .badIdentifier }
        guard identifier.utf8.count <= DeviceIdentifier.limit else { throw .longIdentifier }
    }

    private func deprecation(_ body: JSON) -> String? {
        switch first {
        case "machine-config" where body["cpu_template"] != nil:
            "\(method.rawValue) /machine-config: cpu_template field is deprecated."
        case "vsock" where body["vsock_id"] != nil: "PUT /vsock: vsock_id field is deprecated."
        case "snapshot" where SnapshotLoading.isDeprecated(body):
            second == .word("load")
                ? "PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated." : nil
        default: nil
        }
    }
}
