// SPDX-License-Identifier: Apache-2.0

extension HTTPRequest {
    /// One line for the log. Bodies that may be large or confidential are left out.
    package var logLine: String {
        let name = method.rawValue.prefix(1) + method.rawValue.dropFirst().lowercased()
        let line = "\(name) request on \(path.debugDescription)"
        guard let body, path != "/mmds", path != "/cpu-config" else { return line }
        let text = String(validating: body, as: UTF8.self) ?? "inconvertible to UTF-8"
        return "\(line) with body \(text.debugDescription)"
    }
}

extension HTTPResponse {
    package var logLine: String {
        switch status {
        case .ok: "The request was executed successfully. Status code: 200 OK."
        case .noContent: "The request was executed successfully. Status code: 204 No Content."
        default: "Received Error. Status code: 400 Bad Request. Message: \(String(decoding: body, as: UTF8.self))"
        }
    }
}
