// SPDX-License-Identifier: Apache-2.0

import Glibc
import MachineAPI
import Platform
import Testing

@testable import Machine

/// No two machines of a fork write to one disk, by whatever names they have it.
@Suite struct DiskSharingTests {
    private let directory: ScratchDirectory

    init() throws {
        directory = try ScratchDirectory()
        for name in ["a", "b"] { try Files.writeAtomically([0], to: "\(directory.path)/\(name)") }
        #expect(link("\(directory.path)/a", "\(directory.path)/hard") == 0)
        #expect(symlink("a", "\(directory.path)/soft") == 0)
    }

    private func machine(_ contents: Drive.Content..., isReadOnly: Bool = false) -> MachineConfiguration {
        var configuration = MachineConfiguration(bootSource: BootSource(kernelImagePath: "/k"))
        configuration.drives = contents.enumerated().map { index, content in
            var drive = Drive(identifier: "d\(index)", content: content)
            drive.isReadOnly = isReadOnly
            return drive
        }
        return configuration
    }

    private func path(_ name: String) -> Drive.Content { .path("\(directory.path)/\(name)") }

    @Test func oneFileByAnyName() throws {
        let descriptor = try Descriptor.open("\(directory.path)/a", .readWrite)
        for other in [path("a"), path("hard"), path("soft"), .descriptor(descriptor.raw)] {
            for (first, second) in [(path("a"), other), (other, path("a"))] {
                var disks = DiskSharing()
                try disks.add(machine(first), name: "the machine itself")
                try disks.add(machine(path("b")), name: "fork 1")
                let error = #expect(throws: MachineError.self) { try disks.add(machine(second), name: "fork 2") }
                let text = error.map { "\($0)" } ?? ""
                #expect(text.contains("d0 of fork 2") && text.contains("the machine itself writes to"), "\(text)")
            }
        }
        // Between two children.
        var disks = DiskSharing()
        try disks.add(machine(path("a")), name: "the machine itself")
        try disks.add(machine(path("b")), name: "fork 1")
        #expect(throws: MachineError.self) { try disks.add(machine(path("b")), name: "fork 2") }
    }

    @Test func whatIsOnlyReadIsShared() throws {
        var disks = DiskSharing()
        try disks.add(machine(path("a"), isReadOnly: true), name: "the machine itself")
        try disks.add(machine(path("a"), isReadOnly: true), name: "fork 1")
        // A copy that is still to be made is no file yet.
        try disks.add(machine(path("b"), path("copy")), name: "fork 2")
        try disks.add(machine(path("hard"), path("copy")), name: "fork 3")
    }
}
