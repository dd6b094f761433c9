// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

@testable import DiskImage

/// Archives that nobody should have made: each is a named error.
@Suite struct HostileArchiveTests {
    struct Case: Sendable, CustomStringConvertible {
        var description: String
        var layer: [UInt8]
        var error: DiskImageError
    }

    private static func single(
        _ description: String, _ problem: ArchiveProblem, name: String, _ make: (inout TarWriter) -> Void
    ) -> Case {
        var tar = TarWriter()
        make(&tar)
        return Case(
            description: description, layer: tar.finished(),
            error: .archive(entry: name, offset: 0, problem: problem))
    }

    static let cases: [Case] = {
        var cases = [
            single("dot-dot", .escapes, name: "../etc/passwd") { $0.entry("../etc/passwd") },
            single("dot-dot deeper", .escapes, name: "a/../../b") { $0.entry("a/../../b") },
            single("link out", .escapes, name: "l") { $0.entry("l", type: "1", target: "../../etc/shadow") },
            single("dangling hard link", .linkTargetMissing("/etc/shadow"), name: "l") {
                $0.entry("l", type: "1", target: "/etc/shadow")
            },
            single("link to nothing", .emptyLinkTarget, name: "l") { $0.entry("l", type: "2") },
            single("hard link to the root", .linkTargetIsDirectory("/"), name: "l") {
                $0.entry("l", type: "1", target: "/")
            },
            single("no name", .emptyName, name: "") { $0.entry("") },
            single("root is a file", .rootIsNoDirectory, name: "/.") { $0.entry("/.") },
            single("multi-volume", .unsupportedType(UInt8(ascii: "M")), name: "m") { $0.entry("m", type: "M") },
            single("device number", .badDeviceNumber, name: "d") { $0.entry("d", type: "3", major: 5000) },
            single("octal", .badNumber(field: "uid"), name: "o") {
                $0.header(TarWriter.Header("o")) { block in block[110] = UInt8(ascii: "9") }
            },
            single("negative size", .badNumber(field: "size"), name: "n") {
                $0.header(TarWriter.Header("n")) { block in for index in 124..<136 { block[index] = 0xFF } }
            },
            single("huge size", .badNumber(field: "size"), name: "h") {
                $0.header(TarWriter.Header("h")) { block in
                    block[124] = 0x80
                    for index in 125..<136 { block[index] = 0xFF }
                }
            },
        ]
        var tar = TarWriter()
        tar.entry("d/x")
        let second = tar.bytes.count
        tar.entry("l", type: "1", target: "d")
        cases.append(
            Case(
                description: "hard link to a directory", layer: tar.finished(),
                error: .archive(entry: "l", offset: UInt64(second), problem: .linkTargetIsDirectory("d"))))
        tar = TarWriter()
        tar.entry("a", type: "2", target: "b")
        tar.entry("b", type: "2", target: "a")
        let third = tar.bytes.count
        tar.entry("a/x")
        cases.append(
            Case(
                description: "links in a circle", layer: tar.finished(),
                error: .archive(entry: "a/x", offset: UInt64(third), problem: .tooManyLinks)))
        tar = TarWriter()
        tar.append([UInt8](repeating: 0, count: 512))
        tar.entry("after")
        cases.append(
            Case(
                description: "lone zero block", layer: tar.finished(),
                error: .archive(entry: "", offset: 0, problem: .loneZeroBlock)))
        return cases
    }()

    @Test(arguments: cases)
    func isRefused(hostile: Case) throws {
        let output = try Descriptor.memoryFile("image")
        let error = #expect(throws: DiskImageError.self) { try feed(hostile.layer, to: output.raw) }
        #expect(error == hostile.error)
    }

    @Test func checksum() throws {
        var tar = TarWriter()
        tar.entry("whole")
        tar.entry("spoiled")
        var layer = tar.finished()
        layer[512 + 110] ^= 1
        let output = try Descriptor.memoryFile("image")
        #expect(throws: DiskImageError.archive(entry: "spoiled", offset: 512, problem: .badChecksum)) {
            try feed(layer, to: output.raw)
        }
    }

    @Test func longNames() throws {
        let output = try Descriptor.memoryFile("image")
        func convert(_ name: String) throws -> DiskImageError? {
            var tar = TarWriter()
            tar.entry(name)
            let layer = tar.finished()
            do {
                _ = try feed(layer, to: output.raw)
                return nil
            } catch let error as DiskImageError { return error }
        }
        let component = String(repeating: "c", count: 255)
        #expect(try convert(component) == nil)
        guard case .archive(_, _, .componentTooLong(256)) = try convert(component + "c") else {
            Issue.record("a component of 256 bytes")
            return
        }
        let path = Array(repeating: component, count: 15).joined(separator: "/") + "/" + component
        #expect(path.utf8.count == 4095)
        #expect(try convert(path) == nil)
        guard case .archive(_, _, .pathTooLong(4097)) = try convert(path + "/c") else {
            Issue.record("a path of 4097 bytes")
            return
        }
        guard case .archive(_, _, .componentTooLong(5000)) = try convert(String(repeating: "x", count: 5000)) else {
            Issue.record("a name of 5000 bytes")
            return
        }
        let error = try convert(String(repeating: "x/", count: 100_000))
        guard case .archive(_, _, .pathTooLong) = error else {
            Issue.record("a path of 200000 bytes: \(String(describing: error))")
            return
        }
        #expect(error?.description.utf8.count ?? 0 < 1000)
    }

    @Test func limits() throws {
        let output = try Descriptor.memoryFile("image")
        func convert(_ change: (inout ConversionLimits) -> Void, _ make: (inout TarWriter) -> Void) -> DiskImageError? {
            var options = ConversionOptions()
            change(&options.limits)
            var tar = TarWriter()
            make(&tar)
            do {
                _ = try feed(tar.finished(), to: output.raw, options: options)
                return nil
            } catch { return error as? DiskImageError }
        }
        #expect(
            convert({ $0.entries = 10 }) { for index in 0..<11 { $0.entry("f\(index)") } }
                == .limit(entry: "f10", limit: .entries, maximum: 10))
        #expect(convert({ $0.entries = 10 }) { for index in 0..<10 { $0.entry("f\(index)") } } == nil)
        #expect(
            convert({ _ in }) { $0.pax([("comment", [UInt8](repeating: 32, count: 1 << 20))]) }
                == .limit(entry: "PaxHeader", limit: .extendedHeader, maximum: 1 << 20))
        // Many headers before one entry are bounded together.
        let repeated = convert({ _ in }) { tar in
            for _ in 0..<20 { tar.pax([("comment", [UInt8](repeating: 32, count: 100_000))]) }
        }
        #expect(repeated == .limit(entry: "PaxHeader", limit: .extendedHeader, maximum: 1 << 20))
        #expect(
            convert({ _ in }) { $0.entry("x", xattrs: ["user.a": [UInt8](repeating: 1, count: 65_536)]) }
                == .limit(entry: "x", limit: .xattrs, maximum: 65_536))
        #expect(
            convert({ _ in }) { tar in
                tar.entry("x", xattrs: ["user.a": [UInt8](repeating: 1, count: 65_000)])
            } == nil)
        #expect(
            convert({ $0.metadataInBytes = 100_000 }) { tar in
                for index in 0..<100 { tar.entry("l\(index)", type: "2", target: String(repeating: "t", count: 4000)) }
            } == .limit(entry: "image", limit: .metadata, maximum: 100_000))
        #expect(
            convert({ $0.imageInBytes = 1 << 20 }) { $0.entry("big", content: [UInt8](repeating: 1, count: 1 << 20)) }
                == .limit(entry: "big", limit: .image, maximum: 1 << 20))
        // A header that promises an exabyte, and a sparse file of one.
        var header = TarWriter.Header("exabyte")
        header.size = 1 << 60
        let promised = header
        #expect(
            convert({ _ in }) { $0.header(promised) } == .limit(entry: "exabyte", limit: .image, maximum: 4 << 40))
        let sparse = convert({ _ in }) { tar in
            tar.pax([
                ("GNU.sparse.size", Array("1152921504606846976".utf8)), ("GNU.sparse.map", Array("0,1".utf8)),
                ("size", Array("1".utf8)),
            ])
            tar.header(TarWriter.Header("sparse"))
            tar.data([1])
        }
        guard case .limit(_, .image, _) = sparse else {
            Issue.record("\(String(describing: sparse))")
            return
        }
    }

    @Test(arguments: [
        "1,5", "0,1,0,1", "5,1,3,1", "0,9223372036854775807,9223372036854775807,1", "x", "0,1,", "0,1,2",
        "18446744073709551615,1",
    ])
    func sparseMaps(map: String) throws {
        let output = try Descriptor.memoryFile("image")
        var tar = TarWriter()
        tar.pax([
            ("GNU.sparse.size", Array("4".utf8)), ("GNU.sparse.map", Array(map.utf8)), ("size", Array("2".utf8)),
        ])
        tar.header(TarWriter.Header("sparse"))
        tar.data([1, 2])
        let layer = tar.finished()
        let error = #expect(throws: DiskImageError.self) { try feed(layer, to: output.raw) }
        guard case .archive(_, _, let problem) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        switch problem {
        case .badSparseMap, .badExtendedHeader: break
        default: Issue.record("\(problem)")
        }
    }

    @Test(arguments: [
        "5 a=", "99 a=b\n", "a=b\n", "6 =bc\n", "-5 a=b\n", "6 a=b", "99999999999999999999 a=b\n", "0 a=b\n",
    ])
    func extendedHeaders(body: String) throws {
        let output = try Descriptor.memoryFile("image")
        var tar = TarWriter()
        var header = TarWriter.Header("p", type: "x")
        header.size = UInt64(body.utf8.count)
        tar.header(header)
        tar.data(Array(body.utf8))
        tar.entry("f")
        let layer = tar.finished()
        let error = #expect(throws: DiskImageError.self) { try feed(layer, to: output.raw) }
        guard case .archive("p", 0, .badExtendedHeader) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    /// Wherever a layer is cut within an entry, it is noticed.
    @Test func truncation() throws {
        var tar = TarWriter()
        tar.entry("file", content: [UInt8](repeating: 1, count: 700), xattrs: ["user.a": [1]])
        let layer = tar.bytes
        let output = try Descriptor.memoryFile("image")
        for length in stride(from: 1, to: layer.count, by: 13) {
            // Only the padding after the last file's data may be missing: no byte of content is.
            let error = #expect(throws: DiskImageError.self) { try feed(Array(layer.prefix(length)), to: output.raw) }
            guard case .truncated(_, UInt64(length)) = error else {
                Issue.record("\(length): \(String(describing: error))")
                return
            }
        }
    }
}
