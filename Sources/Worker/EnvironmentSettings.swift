// SPDX-License-Identifier: Apache-2.0

/// What `-e` and `--env-file` say about one variable.
package enum EnvironmentSetting: Equatable, Sendable {
    /// `NAME=value`
    case set(String)
    /// A name alone that the caller's environment does not have: the image's variable goes.
    case unset(String)

    /// What `-e TEXT` means.
    /// - Parameter lookUp: the caller's environment.
    package init(_ text: String, lookUp: (String) -> String?) throws(WorkerError) {
        guard let equals = text.utf8.firstIndex(of: UInt8(ascii: "=")) else {
            guard !text.isEmpty else { throw .invalid("an environment variable needs a name") }
            if let value = lookUp(text) { self = .set("\(text)=\(value)") } else { self = .unset(text) }
            return
        }
        guard equals != text.startIndex else { throw .invalid("\(quoted(text)) is not an environment variable") }
        guard !text.utf8.contains(0) else { throw .invalid("an environment variable cannot hold a zero byte") }
        self = .set(text)
    }

    /// Reads a file of variables, one a line: `NAME=value` with the value as it stands, or a name alone, whose value
    /// is the caller's (a variable that the caller lacks is left out). White space before a name, empty lines and lines
    /// that begin with `#` do not count. No quotes, no expansion: as `docker run --env-file`.
    /// - Parameter name: the file's name for messages.
    package static func parse(
        file bytes: [UInt8], named name: String, lookUp: (String) -> String?
    ) throws(WorkerError) -> [EnvironmentSetting] {
        var settings: [EnvironmentSetting] = []
        var lineNumber = 0
        var rest = bytes[...]
        if rest.starts(with: [0xEF, 0xBB, 0xBF]) { rest = rest.dropFirst(3) }
        for line in rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            lineNumber += 1
            var content = line.drop { isWhiteSpace($0) }
            // Line ends of other systems are no part of a value.
            if content.last == UInt8(ascii: "\r") { content.removeLast() }
            guard let first = content.first, first != UInt8(ascii: "#") else { continue }
            guard let text = String(validating: content, as: UTF8.self), !content.contains(0) else {
                throw .invalid("\(name):\(lineNumber): the line is not UTF-8 text")
            }
            let variable = content.prefix { $0 != UInt8(ascii: "=") }
            guard !variable.isEmpty else {
                throw .invalid("\(name):\(lineNumber): there is no variable name before '='")
            }
            guard !variable.contains(where: isWhiteSpace) else {
                throw .invalid(
                    "\(name):\(lineNumber): the variable name \(quoted(String(decoding: variable, as: UTF8.self))) contains white space"
                )
            }
            if variable.count < content.count {
                settings.append(.set(text))
            } else if let value = lookUp(text) {
                settings.append(.set("\(text)=\(value)"))
            }
        }
        return settings
    }

    private static func isWhiteSpace(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || (9...13).contains(byte)
    }

    /// The variable's name.
    var name: Substring {
        switch self {
        case .set(let text): text.prefix { $0 != "=" }
        case .unset(let name): name[...]
        }
    }
}
