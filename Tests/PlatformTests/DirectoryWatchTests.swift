// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

@Suite struct DirectoryWatches {
    private func withDirectory(_ body: (String) throws -> Void) throws {
        var random = SystemRandomNumberGenerator()
        let path = "/tmp/martlet-watch-\(String(random.next(), radix: 36))"
        try Files.makeDirectories(path)
        defer { try? Files.removeTree(path) }
        try body(path)
    }

    @Test func whatComesAndGoesIsNamed() throws {
        try withDirectory { path in
            try Files.makeDirectories("\(path)/other")
            try Files.writeAtomically([1], to: "\(path)/there")
            let watch = try DirectoryWatch()
            let place = try watch.add(path)
            let other = try watch.add("\(path)/other")
            #expect(try watch.add(path) == place && place != other)
            #expect(watch.take() == DirectoryWatch.Changes())
            let long = String(repeating: "n", count: 255)
            try Descriptor.open("\(path)/\(long)", .createNew).writeAll([1])
            try Files.rename("\(path)/there", to: "\(path)/here")
            try Files.rename("\(path)/here", to: "\(path)/other/here")
            var changes = watch.take()
            #expect(changes.names(in: place) == [long, "there", "here"] && changes.names(in: other) == ["here"])
            Files.remove("\(path)/\(long)")
            changes = watch.take()
            #expect(changes.names(in: place) == [long] && changes.names(in: other) == [] && !changes.isPartial)
            #expect(watch.take() == DirectoryWatch.Changes())
            try Files.removeTree("\(path)/other")
            changes = watch.take()
            #expect(changes.isPartial && changes.names(in: other) == ["here"])
        }
    }

    @Test func whatIsLostIsTold() throws {
        try withDirectory { path in
            let watch = try DirectoryWatch()
            _ = try watch.add(path)
            let text = try Files.read("/proc/sys/fs/inotify/max_queued_events", limit: 64)
            let limit = try #require(Int(String(decoding: text.dropLast(), as: UTF8.self)))
            try Descriptor.open("\(path)/a", .createNew).close()
            for _ in 0...limit / 4 {
                try Files.rename("\(path)/a", to: "\(path)/b")
                try Files.rename("\(path)/b", to: "\(path)/a")
            }
            #expect(watch.take().isPartial)
            #expect(watch.take() == DirectoryWatch.Changes())
        }
    }

    @Test func onlyDirectoriesAreWatched() throws {
        try withDirectory { path in
            try Files.writeAtomically([1], to: "\(path)/file")
            let watch = try DirectoryWatch()
            for name in ["file", "nowhere"] {
                #expect(throws: SystemError.self) { _ = try watch.add("\(path)/\(name)") }
            }
        }
    }
}
