// SPDX-License-Identifier: Apache-2.0

#if !hasFeature(Embedded)

/// The way from a JSON text's outermost value to one within it.
package struct JSONPath: Equatable, Sendable, CustomStringConvertible {
    package enum Step: Equatable, Sendable {
        case member(String)
        case element(Int)
    }
    package var steps: [Step] = []

    package init(_ steps: [Step] = []) { self.steps = steps }

    /// As programs write it: `drives[0].path_on_host`; empty for the outermost value.
    package var description: String {
        var text = ""
        for step in steps {
            switch step {
            case .member(let name): text += text.isEmpty ? name : ".\(name)"
            case .element(let index): text += "[\(index)]"
            }
        }
        return text
    }

    func adding(_ step: Step) -> JSONPath { JSONPath(steps + [step]) }
}

/// A value that is not what its reader wants: where it is and what is wanted.
package struct JSONMismatch: Error, Equatable, Sendable, CustomStringConvertible {
    package let path: JSONPath
    package let problem: String

    package init(path: JSONPath, problem: String) {
        self.path = path
        self.problem = problem
    }

    package var description: String { path.steps.isEmpty ? problem : "\(path): \(problem)" }
}

/// A value within a JSON text, together with where it is, for reading it as what it should be.
package struct JSONView: Sendable {
    package let value: JSON
    package let path: JSONPath

    package init(_ value: JSON, path: JSONPath = JSONPath()) {
        self.value = value
        self.path = path
    }

    /// An error about this value.
    package func mismatch(_ problem: String) -> JSONMismatch { JSONMismatch(path: path, problem: problem) }

    private func wrongKind(_ wanted: StaticString) -> JSONMismatch {
        mismatch("\(wanted) is wanted here, not \(value.kind)")
    }

    /// Fails unless this is an object whose members are all among these.
    package func requireMembers(among names: [String]) throws(JSONMismatch) {
        guard case .object(let object) = value else { throw wrongKind("an object") }
        for name in object.names where !names.contains(name) {
            throw JSONMismatch(
                path: path.adding(.member(name)),
                problem: "there is no such field; possible ones are \(names.joined(separator: ", "))")
        }
    }

    /// A member that may be missing or null.
    package func optional(_ name: String) throws(JSONMismatch) -> JSONView? {
        guard case .object(let object) = value else { throw wrongKind("an object") }
        guard let member = object[name], member != .null else { return nil }
        return JSONView(member, path: path.adding(.member(name)))
    }

    /// A member that must be there.
    package func required(_ name: String) throws(JSONMismatch) -> JSONView {
        guard let member = try optional(name) else { throw mismatch("the field \(name) is missing") }
        return member
    }

    package func elements() throws(JSONMismatch) -> [JSONView] {
        guard case .array(let elements) = value else { throw wrongKind("an array") }
        return elements.enumerated().map { JSONView($1, path: path.adding(.element($0))) }
    }

    package func string() throws(JSONMismatch) -> String {
        guard case .string(let text) = value else { throw wrongKind("a string") }
        return text
    }

    package func bool() throws(JSONMismatch) -> Bool {
        guard case .bool(let value) = value else { throw wrongKind("true or false") }
        return value
    }

    /// An integer that is not negative and lies within a range.
    package func unsigned(in range: ClosedRange<UInt64> = 0...UInt64.max) throws(JSONMismatch) -> UInt64 {
        if case .integer(let value) = value, value < 0 {
            throw mismatch("\(value) is negative; \(range.lowerBound) is the least")
        }
        guard let number = value.unsignedValue else { throw wrongKind("an integer") }
        guard range.contains(number) else {
            throw mismatch(
                number < range.lowerBound
                    ? "\(number) is too small; \(range.lowerBound) is the least"
                    : "\(number) is too large; \(range.upperBound) is the most")
        }
        return number
    }

    /// One of some words.
    package func word(among words: [String]) throws(JSONMismatch) -> String {
        let text = try string()
        guard words.contains(text) else {
            throw mismatch("\"\(text)\" is none of \(words.joined(separator: ", "))")
        }
        return text
    }
}

#endif
