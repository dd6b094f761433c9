// SPDX-License-Identifier: Apache-2.0

/// The methods that the API has; any other is refused while its request is read.
package enum HTTPMethod: String, Equatable, Sendable, CaseIterable {
    case get = "GET"
    case put = "PUT"
    case patch = "PATCH"
    case delete = "DELETE"
}

/// A request that has come whole.
package struct HTTPRequest: Equatable, Sendable {
    package var method: HTTPMethod
    /// The path as it was sent, without the scheme and host that a proxy's request has. Nothing in it is decoded.
    package var path: String
    /// nil where there is none, or an empty one.
    package var body: [UInt8]?
    /// The client wants the connection closed after the response.
    package var closesConnection = false

    package init(_ method: HTTPMethod, _ path: String, body: [UInt8]? = nil) {
        self.method = method
        self.path = path
        self.body = body
    }
}

package struct HTTPResponse: Equatable, Sendable {
    package enum Status: Int, Equatable, Sendable {
        case ok = 200
        case noContent = 204
        case badRequest = 400
        case serviceUnavailable = 503
    }

    package var status: Status
    /// JSON.
    package var body: [UInt8] = []
    /// The request used something that its API will lose.
    package var isDeprecated = false
    package var closesConnection = false

    package init(_ status: Status, body: [UInt8] = []) {
        self.status = status
        self.body = body
    }

    /// What announces that a body may come (RFC 9110 §10.1.1).
    package static let goOn = Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)

    /// The response as it is sent.
    package var bytes: [UInt8] {
        var text = "HTTP/1.1 \(status.rawValue) \(status.reason)\r\nServer: Firecracker API\r\n"
        text += "Connection: \(closesConnection ? "close" : "keep-alive")\r\n"
        if isDeprecated { text += "Deprecation: true\r\n" }
        if status != .noContent { text += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
        text += "\r\n"
        return Array(text.utf8) + body
    }
}

extension HTTPResponse.Status {
    fileprivate var reason: String {
        switch self {
        case .ok: "OK"
        case .noContent: "No Content"
        case .badRequest: "Bad Request"
        case .serviceUnavailable: "Service Unavailable"
        }
    }
}
