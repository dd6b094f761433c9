// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Worker

@Suite struct ContainerSpecificationTests {
    /// What docker runs, for each way of giving entrypoint and command.
    @Test(
        arguments: [
            (["e"], ["c"], nil, [], ["e", "c"]),
            (["e"], ["c"], nil, ["u"], ["e", "u"]),
            ([], ["c"], nil, [], ["c"]),
            ([], ["c"], nil, ["u", "v"], ["u", "v"]),
            (["e"], [], nil, [], ["e"]),
            (["e"], ["c"], "x", [], ["x"]),
            (["e"], ["c"], "x", ["u"], ["x", "u"]),
            (["e"], ["c"], "", ["u"], ["u"]),
            ([], ["c"], "x", ["-u"], ["x", "-u"]),
        ] as [([String], [String], String?, [String], [String])])
    func arguments(
        entrypoint: [String], command: [String], override: String?, given: [String], expected: [String]
    ) throws {
        var image = ImageDefaults()
        image.entrypoint = entrypoint
        image.command = command
        var options = ContainerOptions()
        options.entrypoint = override
        options.command = given
        #expect(try ContainerSpecification(image: image, options: options, defaultHostname: "h").arguments == expected)
    }

    @Test(arguments: [([], nil), (["c"], ""), (["e"], "")] as [([String], String?)])
    func noCommand(command: [String], override: String?) {
        var image = ImageDefaults()
        image.command = command
        var options = ContainerOptions()
        options.entrypoint = override
        #expect(throws: WorkerError.self) {
            try ContainerSpecification(image: image, options: options, defaultHostname: "h")
        }
    }

    @Test func environment() throws {
        var image = ImageDefaults()
        image.command = ["c"]
        image.environment = ["PATH=/image", "A=1", "B=2", "malformed", "=x", "E=a=b"]
        var options = ContainerOptions()
        options.environment = [.set("B=3"), .set("C="), .unset("A"), .set("B=4"), .unset("NOT_THERE")]
        let specification = try ContainerSpecification(image: image, options: options, defaultHostname: "martin")
        #expect(specification.environment == ["PATH=/image", "HOSTNAME=martin", "B=4", "E=a=b", "C="])
        options.environment = [.unset("PATH"), .set("PATH=/mine"), .set("HOSTNAME=other")]
        let other = try ContainerSpecification(image: image, options: options, defaultHostname: "martin")
        #expect(other.environment == ["PATH=/mine", "HOSTNAME=other", "A=1", "B=2", "E=a=b"])
    }

    @Test func defaults() throws {
        var image = ImageDefaults()
        image.command = ["c"]
        image.user = "web"
        image.workingDirectory = "/srv"
        image.stopSignal = "SIGQUIT"
        var options = ContainerOptions()
        let plain = try ContainerSpecification(image: image, options: options, defaultHostname: "h")
        #expect(plain.environment == [ContainerSpecification.defaultPath, "HOSTNAME=h"])
        #expect((plain.user, plain.workingDirectory, plain.stopSignal) == ("web", "/srv", 3))
        options.user = "0:0"
        options.workingDirectory = "/"
        options.stopSignal = "usr1"
        options.hostname = "web-1.example"
        let changed = try ContainerSpecification(image: image, options: options, defaultHostname: "h")
        #expect((changed.user, changed.workingDirectory, changed.stopSignal) == ("0:0", "/", 10))
        #expect(changed.hostname == "web-1.example")
    }

    @Test(arguments: ["", "-a", "a b", "a/b", "ä", String(repeating: "a", count: 65)])
    func badHostname(_ name: String) {
        var image = ImageDefaults()
        image.command = ["c"]
        var options = ContainerOptions()
        options.hostname = name
        #expect(throws: WorkerError.self) {
            try ContainerSpecification(image: image, options: options, defaultHostname: "h")
        }
    }

    @Test func badWorkingDirectory() {
        var image = ImageDefaults()
        image.command = ["c"]
        var options = ContainerOptions()
        options.workingDirectory = "relative"
        #expect(throws: WorkerError.self) {
            try ContainerSpecification(image: image, options: options, defaultHostname: "h")
        }
    }
}

@Suite struct EnvironmentSettingTests {
    private let caller = ["HERE": "there", "EMPTY": ""]

    @Test func options() throws {
        #expect(try EnvironmentSetting("A=b=c", lookUp: { caller[$0] }) == .set("A=b=c"))
        #expect(try EnvironmentSetting("A=", lookUp: { caller[$0] }) == .set("A="))
        #expect(try EnvironmentSetting("HERE", lookUp: { caller[$0] }) == .set("HERE=there"))
        #expect(try EnvironmentSetting("EMPTY", lookUp: { caller[$0] }) == .set("EMPTY="))
        #expect(try EnvironmentSetting("GONE", lookUp: { caller[$0] }) == .unset("GONE"))
        #expect(throws: WorkerError.self) { try EnvironmentSetting("=x", lookUp: { _ in nil }) }
        #expect(throws: WorkerError.self) { try EnvironmentSetting("", lookUp: { _ in nil }) }
    }

    @Test func file() throws {
        let text = "\u{FEFF}A=1\r\n# no\n\n  B= two words \n\tHERE\nGONE\nC=\"quoted\"\n   # indented\nD=x#y"
        let settings = try EnvironmentSetting.parse(file: Array(text.utf8), named: "f", lookUp: { caller[$0] })
        #expect(
            settings == [.set("A=1"), .set("B= two words "), .set("HERE=there"), .set("C=\"quoted\""), .set("D=x#y")])
    }

    @Test(arguments: ["=x", "A B=c", "A\u{0}=c", "A B"])
    func badFile(_ line: String) {
        let error = #expect(throws: WorkerError.self) {
            try EnvironmentSetting.parse(file: Array("OK=1\n\(line)\n".utf8), named: "vars", lookUp: { _ in nil })
        }
        #expect(error?.description.contains("vars:2:") == true)
    }

    @Test func badEncoding() {
        #expect(throws: WorkerError.self) {
            try EnvironmentSetting.parse(file: [0x41, 0x3D, 0xFF, 0x0A], named: "vars", lookUp: { _ in nil })
        }
    }
}
