// SPDX-License-Identifier: Apache-2.0

package import Wire

/// `manifest.json`: what a snapshot is of.
package struct SnapshotManifest: Sendable {
    /// The files of a whole snapshot; its checksums may be missing.
    package static let state = "state"
    package static let memory = "memory"
    package static let sums = "sums"
    /// Before the names of a diff's.
    package static let diffPrefix = "diff-"
    /// Of a file that may be there: it is a hint, and nothing is wrong without it.
    package static let workingSetName = "working-set"

    package var id: String
    package var tag: String?
    /// Nanoseconds since 1970.
    package var createdAt: UInt64
    /// When it was given its tag, in nanoseconds since 1970; nil without one, and in those that were made before this was
    /// written down.
    package var taggedAt: UInt64?
    /// The machine that was saved.
    package var machine: ContainerConfiguration
    /// The monitor's name of it, in its state; nil in those that were made before diffs were.
    package var identifier: String?
    /// The snapshot that this one, a diff, goes on from, by its id.
    package var parent: String?
    /// What the machine that was saved had drawn at random, which those that are made of it must not; nil in those that
    /// were made before this was written down.
    package var randomSample: String?
    /// It came from elsewhere: the paths in its state are another host's.
    package var isImported = false
    /// It was imported without its memory: machines that are made of it have that from a server.
    package var isMemoryElsewhere = false
    /// The steps of saving, with their microseconds.
    package var steps: [(step: String, microseconds: UInt64)] = []
    /// The files, with their bytes.
    package var lengths: [(name: String, bytes: UInt64)] = []

    package init(id: String, tag: String?, createdAt: UInt64, machine: ContainerConfiguration) {
        self.id = id
        self.tag = tag
        self.createdAt = createdAt
        self.machine = machine
    }

    var tagTime: UInt64 { taggedAt ?? createdAt }

    package var json: JSON {
        var members: [(String, JSON)] = [("version", 1), ("id", .string(id))]
        if let tag { members.append(("tag", .string(tag))) }
        if let taggedAt { members.append(("taggedAt", .number(taggedAt))) }
        members += [
            ("createdAt", .number(createdAt))
        ]
        if let identifier { members.append(("identifier", .string(identifier))) }
        if let parent { members.append(("parent", .string(parent))) }
        if let randomSample { members.append(("randomSample", .string(randomSample))) }
        if isImported { members.append(("imported", true)) }
        if isMemoryElsewhere { members.append(("memoryElsewhere", true)) }
        members += [
            ("files", JSON(members: lengths.map { ($0.name, .number($0.bytes)) })),
            ("workingSet", .string(Self.workingSetName)),
            ("stepsInMicroseconds", JSON(members: steps.map { ($0.step, .number($0.microseconds)) })),
            ("machine", machine.json),
        ]
        return JSON(members: members)
    }

    package init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        _ = try view.required("version").unsigned(in: 1...1)
        id = try view.required("id").string()
        tag = try view.optional("tag")?.string()
        taggedAt = try view.optional("taggedAt")?.unsigned()
        identifier = try view.optional("identifier")?.string()
        parent = try view.optional("parent")?.string()
        randomSample = try view.optional("randomSample")?.string()
        isImported = try view.optional("imported")?.bool() ?? false
        isMemoryElsewhere = try view.optional("memoryElsewhere")?.bool() ?? false
        createdAt = try view.required("createdAt").unsigned()
        machine = try ContainerConfiguration(try view.required("machine").value)
        lengths = MachineState.steps(json["files"]).map { ($0.step, $0.microseconds) }
        steps = MachineState.steps(json["stepsInMicroseconds"])
    }
}
