// SPDX-License-Identifier: Apache-2.0

/// The syntax of `run`'s arguments, which is docker's: options end at the image, and everything after it is the
/// command's even where it begins with a hyphen; short options can be joined (`-id`), with a value at the end (`-m1g`,
/// `-e NAME=value`). Pure.
package struct RunSyntax: Equatable, Sendable {
    /// The options by their long names, each with its value: `--memory=1g`.
    package private(set) var options: [String] = []
    package private(set) var image: String?
    /// What follows the image.
    package private(set) var command: [String] = []

    /// The short options, and the long ones that they stand for.
    package static let shortNames: [Character: String] = [
        "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "m": "memory", "p": "publish", "u": "user",
        "w": "workdir",
    ]
    package static let flags: Set<String> = [
        "detach", "interactive", "rm", "read-only", "insecure-registry", "no-template", "help",
        "egress-audit", "host-access",
    ]
    package static let valued: Set<String> = [
        "name", "env", "env-file", "workdir", "user", "entrypoint", "cpus", "memory", "hostname", "kernel", "timeout",
        "pull", "stop-timeout", "stop-signal", "image-name", "snapshot", "memory-server", "network", "net", "publish",
        "ip", "ip6", "mac", "mac-address", "dns", "dns-search", "add-host", "network-alias", "egress",
    ]

    package init(_ arguments: [String]) throws(WorkerError) {
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                image = rest.popFirst()
                break
            } else if argument.hasPrefix("--") {
                try takeLong(argument, &rest)
            } else if argument.hasPrefix("-"), argument != "-" {
                try takeShort(argument, &rest)
            } else {
                image = argument
                break
            }
        }
        command = Array(rest)
    }

    /// The options by their long names, each with its value, nil for a flag; nil where one is of another form.
    package var plainOptions: [(name: String, value: String?)]? {
        var result: [(name: String, value: String?)] = []
        for option in options {
            guard option.hasPrefix("--") else { return nil }
            let body = option.dropFirst(2)
            let equals = body.utf8.firstIndex(of: UInt8(ascii: "="))
            result.append(
                (
                    String(body[..<(equals ?? body.endIndex)]),
                    equals.map { String(body[body.utf8.index(after: $0)...]) }
                ))
        }
        return result
    }

    private mutating func takeLong(_ argument: String, _ rest: inout ArraySlice<String>) throws(WorkerError) {
        let body = argument.dropFirst(2)
        let name = String(body.prefix { $0 != "=" })
        let value = name.count < body.count ? String(body.dropFirst(name.count + 1)) : nil
        if Self.valued.contains(name) {
            guard let value = value ?? rest.popFirst() else { throw .invalid("--\(name) needs a value") }
            append(name, value)
        } else if Self.flags.contains(name), let value {
            // As docker takes it.
            switch value {
            case "true", "1": options.append("--\(name)")
            case "false", "0": options.removeAll { $0 == "--\(name)" }
            default: throw .invalid("--\(name) takes true or false, not \(quoted(value))")
            }
        } else {
            options.append(argument)
        }
    }

    private mutating func takeShort(_ argument: String, _ rest: inout ArraySlice<String>) throws(WorkerError) {
        var letters = argument.dropFirst()
        while let letter = letters.popFirst() {
            guard let name = Self.shortNames[letter] else {
                options.append("-\(letter)")
                continue
            }
            guard Self.valued.contains(name) else {
                options.append("--\(name)")
                continue
            }
            if letters.first == "=" { letters.removeFirst() }
            guard let value = letters.isEmpty ? rest.popFirst() : String(letters) else {
                throw .invalid("-\(letter) needs a value")
            }
            append(name, value)
            return
        }
    }

    /// The parser takes an empty value only as an argument of its own.
    private mutating func append(_ name: String, _ value: String) {
        options += value.isEmpty ? ["--\(name)", ""] : ["--\(name)=\(value)"]
    }
}
