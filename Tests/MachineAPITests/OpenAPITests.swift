// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import Wire

@testable import MachineAPI

/// Docs/openapi.json and the tables that the monitor works by say the same: each path, method and field, with its type.
@Suite struct OpenAPITests {
    private static func document() throws -> JSON {
        let path = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        guard let file = fopen("/\(path)/Docs/openapi.json", "r") else { return .null }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        while case let byte = getc(file), byte != EOF { bytes.append(UInt8(byte)) }
        return try JSON(parsing: bytes)
    }

    // MARK: - What the tables say

    private static func schema(_ shape: BodyShape) -> JSON {
        switch shape {
        case .string, .path: ["type": "string"]
        case .bool: ["type": "boolean"]
        case .unsigned(let bits):
            bits == 64
                ? ["type": "integer", "minimum": 0]
                : ["type": "integer", "minimum": 0, "maximum": .number((UInt64(1) << UInt64(bits)) - 1)]
        case .size: ["type": "integer", "minimum": 0]
        case .word(let words): ["type": "string", "enum": .array(words.map(JSON.string))]
        case .level:
            ["type": "string", "enum": ["Off", "Error", "Warning", "Info", "Debug", "Trace"]]
        case .address: ["type": "string", "format": "mac"]
        case .list(let element): ["type": "array", "items": schema(element)]
        case .strings: ["type": "object", "additionalProperties": ["type": "string"]]
        case .object(let body): schema(body)
        }
    }

    private static func schema(_ body: BodySchema) -> JSON {
        var properties = JSONObject()
        for field in body.fields {
            var members = schema(field.shape).objectValue ?? JSONObject()
            if field.isNullable { members["nullable"] = true }
            if field.isAddition { members["x-martlet"] = true }
            properties[field.name] = .object(members)
        }
        var result: JSON = ["type": "object", "properties": .object(properties)]
        var members = result.objectValue ?? JSONObject()
        let required = body.fields.filter { $0.isRequired && $0.alternative == nil }.map(\.name)
        if !required.isEmpty { members["required"] = .array(required.map(JSON.string)) }
        if body.refusesUnknown { members["additionalProperties"] = false }
        result = .object(members)
        return result
    }

    // MARK: - What the file says

    /// The file's schema without the words for people, its references followed.
    private static func bare(_ value: JSON, _ document: JSON) -> JSON {
        switch value {
        case .array(let elements): return .array(elements.map { bare($0, document) })
        case .object(let object):
            if let reference = object["$ref"]?.stringValue {
                let name = reference.split(separator: "/").last.map(String.init) ?? ""
                return bare(document["components"]?["schemas"]?[name] ?? .null, document)
            }
            var result = JSONObject()
            for (name, value) in zip(object.names, object.values)
            where !["summary", "title", "default", "example"].contains(name)
                && (name != "description" || value.stringValue == nil)
            {
                result[name] = bare(value, document)
            }
            return .object(result)
        default: return value
        }
    }

    /// Equal but for the order of members.
    private static func sorted(_ value: JSON) -> JSON {
        switch value {
        case .array(let elements): return .array(elements.map(sorted))
        case .object(let object):
            var result = JSONObject()
            for name in object.names.sorted() { result[name] = object[name].map(sorted) }
            return .object(result)
        default: return value
        }
    }

    @Test func everyRouteIsThereWithItsBody() throws {
        let document = try Self.document()
        for route in APIRoute.all {
            let operation = document["paths"]?[route.template]?[route.method.rawValue.lowercased()]
            #expect(operation != nil, "\(route.method.rawValue) \(route.template)")
            guard let operation else { continue }
            #expect((operation["x-martlet"]?.boolValue ?? false) == route.isAddition)
            let body = operation["requestBody"]?["content"]?["application/json"]?["schema"]
            #expect((body == nil) == (route.schema == nil), "\(route.template)")
            if let body, let schema = route.schema {
                #expect(
                    Self.sorted(Self.bare(body, document)) == Self.sorted(Self.schema(schema)),
                    "\(route.method.rawValue) \(route.template)")
            }
        }
    }

    @Test func nothingElseIsThere() throws {
        let paths = try Self.document()["paths"]?.objectValue ?? JSONObject()
        var count = 0
        for (path, methods) in zip(paths.names, paths.values) {
            for method in methods.objectValue?.names ?? [] where method != "parameters" {
                count += 1
                let isKnown = APIRoute.all.contains {
                    $0.template == path && $0.method.rawValue.lowercased() == method
                }
                #expect(isKnown, "\(method) \(path)")
            }
        }
        #expect(count == APIRoute.all.count)
    }

    /// What the monitor answers to a description of itself has the members that the file gives.
    @Test func answersHaveTheirMembers() throws {
        let document = try Self.document()
        func members(_ path: String) -> Set<String> {
            let schema = document["paths"]?[path]?["get"]?["responses"]?["200"]?["content"]?["application/json"]?[
                "schema"]
            let bare = schema.map { Self.bare($0, document) }
            return Set(bare?["properties"]?.objectValue?.names ?? [])
        }
        var state = APIState(identifier: "m")
        for path in ["/", "/version", "/vm/config", "/machine-config"] {
            var counters = APICounters()
            let routed = try APIRequest.route(HTTPRequest(.get, path), &counters)
            guard case .respond(let response) = state.handle(routed.request) else { continue }
            let answer = try JSON(parsing: response.body)
            let names = Set(answer.objectValue?.names ?? [])
            #expect(!names.isEmpty && names.isSubset(of: members(path)), "\(path)")
        }
    }
}
