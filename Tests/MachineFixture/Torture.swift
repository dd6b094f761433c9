// SPDX-License-Identifier: Apache-2.0

import Glibc
import Machine
import MachineAPI
import Platform
import TestSupport

extension Script {
    /// What is done to a machine at a point of its life that nobody chose.
    private enum Ordeal: CaseIterable {
        case pause
        /// Saved, and goes on.
        case save
        /// Saved, ended, and goes on from there.
        case restore
        /// Saved whole and, a little later, what has changed since; goes on from both as one.
        case join
        /// Saved while it runs, a little later what has changed since, and goes on from both as one.
        case joinLive
        /// Goes on from an old snapshot, which others have gone on from before.
        case again
        case fork
    }

    /// Does so many things to the machine, of which the numbers from the seed choose what and when; the guest looks at
    /// itself all the while. Gives how many there were of each.
    ///
    /// The disk of a machine is copied with it, so it is not saved while it runs.
    func torture(seed: UInt64, rounds: Int, disk: String?) throws -> String {
        var random = SeededGenerator(seed)
        var counts: [Ordeal: Int] = [:]
        var kept: (files: SnapshotFiles, disk: String?)?
        let fullDisk = try FullDisk()
        defer { fullDisk.remove() }
        let descriptorCount = try Files.list("/proc/self/fd").count
        for round in 0..<rounds {
            let ordeal = Ordeal.allCases.randomElement(using: &random) ?? .pause
            // At no instruction in particular.
            usleep(UInt32.random(in: 0..<30_000, using: &random))
            switch ordeal {
            case .pause:
                try running().pause()
                usleep(UInt32.random(in: 0..<10_000, using: &random))
                try running().resume()
            case .save:
                _ = try save("kept", disk: disk)
                try running().resume()
                kept = (SnapshotFiles(state: "kept.s", memory: "kept.m"), disk.map { _ in "kept.d" })
            case .restore:
                let copy = try save("now", disk: disk)
                try goOn(from: SnapshotFiles(state: "now.s", memory: "now.m"), disk: disk, copy: copy)
            case .join, .joinLive:
                guard disk == nil || ordeal == .join else { continue }
                if ordeal == .join {
                    _ = try save("base", disk: nil)
                    try running().resume()
                } else {
                    _ = try running().createLiveSnapshot(state: "base.s", memory: "base.m", isDurable: false)
                }
                usleep(UInt32.random(in: 0..<50_000, using: &random))
                try running().pause()
                // One that fails takes nothing away from the next.
                if Bool.random(using: &random) { try failToSave(in: fullDisk) }
                try running().createSnapshot(state: "diff.s", memory: "diff.m", kind: .diff, isDurable: false)
                let copy = try disk.map { try duplicate($0, to: "diff.d") }
                let whole = SnapshotFiles(state: "whole.s", memory: "whole.m")
                try SnapshotFiles.join(
                    SnapshotFiles(state: "base.s", memory: "base.m"),
                    [SnapshotFiles(state: "diff.s", memory: "diff.m")],
                    to: whole)
                try goOn(from: whole, disk: disk, copy: copy)
            case .again:
                guard let kept else { continue }
                try running().pause()
                try goOn(from: kept.files, disk: disk, copy: kept.disk)
            case .fork:
                let outcomes = try fork(1)
                guard outcomes.contains("made") else { throw ScriptError(description: "no child: \(outcomes)") }
            }
            counts[ordeal, default: 0] += 1
            _ = try console.line(with: "tick")
            if round % 50 == 49 { say("round \(round + 1)") }
        }
        // As many as ever, whatever the number of machines that have ended; and the file that memory comes from.
        let lastCount = try Files.list("/proc/self/fd").count
        guard lastCount <= descriptorCount + 1 else {
            throw ScriptError(description: "\(descriptorCount) descriptors have become \(lastCount)")
        }
        let total = counts.values.reduce(0, +)
        return "\(total) ordeals, seed \(seed): "
            + Ordeal.allCases.map { "\($0) \(counts[$0] ?? 0)" }.joined(separator: ", ")
    }

    /// Pauses and saves the machine, and its disk with it; gives the copy's path.
    private func save(_ name: String, disk: String?) throws -> String? {
        try running().pause()
        try running().createSnapshot(state: "\(name).s", memory: "\(name).m", kind: .full, isDurable: false)
        return try disk.map { try duplicate($0, to: "\(name).d") }
    }

    private func failToSave(in fullDisk: FullDisk) throws {
        do {
            try running().createSnapshot(
                state: "\(fullDisk.path)/s", memory: "\(fullDisk.path)/m", kind: .diff, isDurable: false)
        } catch {
            guard try Files.list(fullDisk.path).isEmpty else {
                throw ScriptError(description: "\(error): something is left of what failed")
            }
            return
        }
        throw ScriptError(description: "a diff was saved on a full disk")
    }

    private func duplicate(_ path: String, to copy: String) throws -> String {
        try Files.writeAtomically(try Files.read(path, limit: 64 << 20), to: copy)
        return copy
    }

    /// Ends the machine, paused as it is, and goes on from what was saved.
    private func goOn(from files: SnapshotFiles, disk: String?, copy: String?) throws {
        try end()
        if let disk, let copy { _ = try duplicate(copy, to: disk) }
        try restore(files, tracksDirtyPages: true)
        try running().resume()
    }
}

/// A file system with room for the beginning of a snapshot.
private struct FullDisk {
    let path = "full"

    init() throws {
        try Files.makeDirectories(path)
        guard mount("none", path, "tmpfs", 0, "size=64k") == 0 else { throw SystemError("mount", path) }
    }

    func remove() { _ = umount2(path, Int32(MNT_DETACH)) }
}
