// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import TestSupport
import Testing

@testable import Worker

@Suite struct TemplateStoreTests {
    private static func key(_ number: Int) -> TemplateKey { TemplateKey(text: "key \(number)") }

    private static func make(_ store: TemplateStore, _ key: TemplateKey) throws {
        let new = try #require(try store.begin(key))
        try Files.writeAtomically(Array("state".utf8), to: new.template.state)
        try Files.writeAtomically(Array("memory".utf8), to: new.template.memory)
        try store.finish(new)
    }

    @Test func madeAndFound() throws {
        try withDirectory { root in
            let store = TemplateStore(root: "\(root)/templates")
            #expect(store.find(Self.key(1)) == nil)
            try Self.make(store, Self.key(1))
            let found = try #require(store.find(Self.key(1)))
            #expect(try Files.read(found.memory, limit: 100) == Array("memory".utf8))
            #expect(store.find(Self.key(2)) == nil)
            // It is there: nobody makes it again.
            #expect(try store.begin(Self.key(1)) == nil)
            store.remove(Self.key(1))
            #expect(store.find(Self.key(1)) == nil)
        }
    }

    @Test func oneAtATimeAndNothingHalfMadeIsSeen() throws {
        try withDirectory { root in
            let store = TemplateStore(root: root)
            var new = try store.begin(Self.key(1))
            #expect(new != nil)
            #expect(try store.begin(Self.key(1)) == nil)
            #expect(try store.begin(Self.key(2)) != nil)
            #expect(store.find(Self.key(1)) == nil)
            // As if its maker had been killed: the lock is free, the directory stays until the next one.
            new = nil
            _ = new
            // Whoever makes the next one clears up, of whatever key.
            try Self.make(store, Self.key(3))
            #expect(try Files.list(root).filter { $0.hasPrefix(".new-\(Self.key(1).name)") }.isEmpty)
            try Self.make(store, Self.key(1))
        }
    }

    @Test(arguments: ["state", "memory", "manifest.json"])
    func damageIsNoTemplate(file: String) throws {
        try withDirectory { root in
            let store = TemplateStore(root: root)
            try Self.make(store, Self.key(1))
            let directory = try #require(store.find(Self.key(1))).directory
            try Files.writeAtomically([1], to: "\(directory)/\(file)")
            #expect(store.find(Self.key(1)) == nil)
            // It is made again over what is there.
            try Self.make(store, Self.key(1))
            #expect(store.find(Self.key(1)) != nil)
        }
    }

    @Test func aNameOfAnotherKeyIsNotIt() throws {
        try withDirectory { root in
            let store = TemplateStore(root: root)
            try Self.make(store, Self.key(1))
            let directory = try #require(store.find(Self.key(1))).directory
            try Files.rename(directory, to: "\(root)/\(Self.key(2).name)")
            #expect(store.find(Self.key(2)) == nil)
        }
    }

    @Test func thoseNotUsedForLongGo() throws {
        try withDirectory { root in
            let store = TemplateStore(root: root)
            for number in 0..<TemplateStore.capacity + 3 {
                try Self.make(store, Self.key(number))
                let manifest = try #require(store.find(Self.key(number))).directory + "/manifest.json"
                var times = [timespec(tv_sec: 1000 + number, tv_nsec: 0), timespec(tv_sec: 1000 + number, tv_nsec: 0)]
                #expect(utimensat(AT_FDCWD, manifest, &times, 0) == 0)
                // The oldest is used all the time.
                store.touch(Self.key(0))
            }
            #expect(store.find(Self.key(0)) != nil)
            #expect(store.find(Self.key(1)) == nil)
            let kept = (0..<TemplateStore.capacity + 3).filter { store.find(Self.key($0)) != nil }
            #expect(kept.count == TemplateStore.capacity)
            #expect(kept.last == TemplateStore.capacity + 2)
        }
    }

    @Test func aKeyChangesWithAllThatATemplateDependsOn() throws {
        try withDirectory { root in
            for name in ["vmm", "kernel", "initramfs"] {
                try Files.writeAtomically(Array(name.utf8), to: "\(root)/\(name)")
            }
            var machine = MachineConfiguration(
                bootSource: BootSource(kernelImagePath: "\(root)/kernel", initrdPath: "\(root)/initramfs"))
            let first = try TemplateKey(machine, monitor: "\(root)/vmm")
            #expect(try TemplateKey(machine, monitor: "\(root)/vmm") == first)
            var names: Set = [first.name]
            machine.machine.memoryInMiB += 1
            names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            machine.machine.vcpuCount += 1
            names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            machine.bootSource.arguments = "quiet"
            names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            var interface = NetworkInterface(identifier: "eth0", peer: .socket("one"), guestMAC: nil, mtu: 1500)
            machine.networkInterfaces = [interface]
            names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            interface.mtu = 9000
            machine.networkInterfaces = [interface]
            names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            interface.queuePairs = 2
            machine.networkInterfaces = [interface]
            let several = try TemplateKey(machine, monitor: "\(root)/vmm")
            names.insert(several.name)
            // Whose they are is no part of it.
            machine.networkInterfaces[0].peer = .socket("another")
            machine.networkInterfaces[0].guestMAC = .random()
            #expect(try TemplateKey(machine, monitor: "\(root)/vmm") == several)
            for name in ["vmm", "kernel", "initramfs"] {
                try Files.writeAtomically(Array("another \(name)".utf8), to: "\(root)/\(name)")
                names.insert(try TemplateKey(machine, monitor: "\(root)/vmm").name)
            }
            #expect(names.count == 10)
            machine.bootSource.kernel = .path("\(root)/missing")
            #expect(throws: SystemError.self) { try TemplateKey(machine, monitor: "\(root)/vmm") }
        }
    }
}

@Suite struct HTTPResponseReaderTests {
    private func responses(_ text: String, step: Int) throws -> [HTTPResponseReader.Response] {
        var reader = HTTPResponseReader()
        var result: [HTTPResponseReader.Response] = []
        let bytes = Array(text.utf8)
        var index = 0
        while index < bytes.count {
            reader.append(bytes[index..<min(index + step, bytes.count)])
            while let response = try reader.next() { result.append(response) }
            index += step
        }
        return result
    }

    @Test(arguments: [1, 2, 7, 1000])
    func inAnyPieces(step: Int) throws {
        let text =
            "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\n\r\n"
            + "HTTP/1.1 100 Continue\r\n\r\n"
            + "HTTP/1.1 400 Bad Request\r\ncontent-length:  4\r\nConnection: keep-alive\r\n\r\n{\"a\""
        let found = try responses(text, step: step)
        #expect(found.map(\.status) == [204, 400])
        #expect(found.last?.body == Array("{\"a\"".utf8))
        #expect(found.map(\.isSuccess) == [true, false])
    }

    @Test(arguments: [
        "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", String(repeating: "x", count: 20_000),
    ])
    func whatIsNone(text: String) {
        #expect(throws: HTTPResponseReader.SyntaxError.self) { try responses(text, step: 1000) }
    }

    @Test(arguments: 0..<4 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var generator = SeededGenerator(seed + 1)
        let corpus = Array("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world!HTTP/1.1 204 No\r\n\r\n".utf8)
        for _ in 0..<4000 {
            var bytes = corpus
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                let place = Int.random(in: 0..<bytes.count, using: &generator)
                bytes[place] = UInt8(truncatingIfNeeded: generator.next())
            }
            var reader = HTTPResponseReader()
            reader.append(bytes)
            var count = 0
            while let response = try? reader.next() {
                count += 1
                #expect(response.body.count <= bytes.count)
            }
            #expect(count <= 3)
        }
    }
}
