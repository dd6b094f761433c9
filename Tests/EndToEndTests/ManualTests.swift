// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

/// The manual pages say what the programs say about themselves.
@Suite struct ManualTests {
    private static let pages = "\(Stage.package)/Docs/man"
    private let stage = Stage.shared

    /// Command lines that print help, and the page that has all of it.
    private func helps() throws -> [(help: [String], page: String)] {
        var found: [(help: [String], page: String)] = [([], "martlet.1")]
        for command in Self.subcommands(try stage.run(["--help"]).text) where command != "version" {
            found.append(([command], "martlet-\(command).1"))
            for below in Self.subcommands(try stage.run([command, "--help"]).text) {
                found.append(([command, below], "martlet-\(command).1"))
            }
        }
        return found
    }

    /// The first words of the lines below a heading of subcommands.
    private static func subcommands(_ help: String) -> [String] {
        var isBelow = false
        var found: [String] = []
        for line in help.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasSuffix("SUBCOMMANDS:") { isBelow = true } else if line.isEmpty { isBelow = false }
            guard isBelow, line.hasPrefix("  "), let first = line.dropFirst(2).first, first != " " else { continue }
            found.append(String(line.dropFirst(2).prefix { $0 != " " }))
        }
        return found
    }

    /// The options that a help lists, without what follows them.
    private static func options(_ help: String) -> [String] {
        var found: [String] = []
        for line in help.split(separator: "\n") {
            var rest = line.drop { $0 == " " }
            guard line.hasPrefix("  "), rest.hasPrefix("-"), line.count - rest.count == 2 else { continue }
            while rest.hasPrefix("-") {
                let option = rest.prefix { $0 != " " && $0 != "," }
                found.append(String(option))
                rest = rest.dropFirst(option.count).drop { $0 == "," || $0 == " " }
            }
        }
        return found
    }

    private func expectOptions(_ help: String, in page: String) throws {
        let text = String(decoding: try Files.read("\(Self.pages)/\(page)", limit: 1 << 20), as: UTF8.self)
        let words = Set(
            text.split(separator: "\n").flatMap { line in
                line.hasPrefix(".") ? line.split(whereSeparator: { " ,".contains($0) }).map(String.init) : []
            })
        let options = Self.options(help)
        #expect(!options.isEmpty, "\(page): \(help)")
        for option in options where !words.contains(String(option.dropFirst())) {
            Issue.record("\(page) does not have \(option)")
        }
    }

    @Test func everyOptionIsInThem() throws {
        for (help, page) in try helps() {
            try expectOptions(try stage.run(help + ["--help"]).text, in: page)
        }
        let monitor = try stage.shell("'\(stage.tree)/libexec/martlet/martlet-vmm' --help").text
        try expectOptions(monitor, in: "martlet-vmm.8")
    }

    @Test func theyAreWellFormed() throws {
        let result = try stage.shell("cd '\(Self.pages)'; mandoc -Tlint -Wwarning *.[18]")
        #expect(result.status == 0 && result.text == "" && result.errorText == "", "\(result)")
    }

    /// What a page refers to is there, and the first page knows all others of its section.
    @Test func theyReferToEachOther() throws {
        let names = try Files.list(Self.pages)
        var known: Set<Substring> = []
        for name in names {
            let text = String(decoding: try Files.read("\(Self.pages)/\(name)", limit: 1 << 20), as: UTF8.self)
            for line in text.split(separator: "\n") {
                let words = line.split(separator: " ")
                guard let place = words.firstIndex(of: "Xr") ?? words.firstIndex(of: ".Xr") else { continue }
                let page = "\(words[place + 1]).\(words[place + 2])"
                #expect(names.contains(page), "\(name) refers to \(page)")
                if name == "martlet.1" { known.insert(Substring(page)) }
            }
        }
        #expect(known == Set(names.map { Substring($0) }.filter { $0 != "martlet.1" }))
    }

    @Test func theyAreInstalled() throws {
        for name in try Files.list(Self.pages) {
            #expect(Files.exists("\(stage.tree)/share/man/man\(name.suffix(1))/\(name)"))
        }
    }
}
