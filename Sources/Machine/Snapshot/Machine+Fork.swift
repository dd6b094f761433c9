// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import KVM
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio

/// A running machine becomes several.
///
/// KVM ties a VM to the process that made it, and so a machine is cloned by forking its process: the child has all of
/// the guest's memory, copy-on-write, makes a VM of its own over it, and puts the state into it that was taken before
/// the fork. Nothing is written to a disk, and what neither writes to, all share.
///
/// A forked process has one thread. All others of the machine stand at their gates when the process forks, workers are
/// idle, and nothing that they hold is used in the child: that makes everything anew, and has none of the descriptors
/// of the old process but those that it needs. The thread that forks is made for it. It becomes the child's only one,
/// and its thread-local values, among them the thread's number that locks are marked with, were never set.
///
/// Children wait until the parent goes on, so that its pause is that of the forks alone.
extension Machine {
    /// What a child does, on a thread with 1 MiB of stack, the only one of its process: it readies itself, makes the
    /// machine and starts it. What it gives then sees the machine through to its end. What it throws is told to the
    /// parent as the reason why there is no such machine.
    package typealias ForkBody = @Sendable (ForkedChild) throws(MachineError) -> () -> Never

    /// Forks the machine, once for each of `children`, in one pause. A machine that ran goes on running, whatever
    /// becomes of the children.
    /// - Parameters:
    ///   - children: what is another in each. Disks that are written to, network interfaces and the vsock device need
    ///     an override.
    ///   - kept: descriptors that children keep, besides the three standard ones.
    ///   - goesOn: called when the machine goes on; children are not made yet.
    package func fork(
        _ children: [MachineOverrides], keeping kept: [Int32] = [], goesOn: (ForkPause) -> Void = { _ in },
        child body: @escaping ForkBody
    ) throws(MachineError) -> ForkReport {
        var configurations: [MachineConfiguration] = []
        var disks = DiskSharing()
        try disks.add(configuration, name: "the machine itself")
        for (index, child) in children.enumerated() {
            try checkSharing(child)
            let configuration = try child.apply(to: configuration)
            try disks.add(configuration, name: "fork \(index + 1)")
            configurations.append(configuration)
        }
        if memory.pageSize > 4096 { try HugePagePool.checkForks(children.count, of: memory) }
        let wanted = configurations
        let drives = wanted.map { $0.drives.flatMap(\.content.descriptors) }
        let descriptors = zip(children, drives).map { kept + $0.networkDescriptors + $1 }
        let channel = try system("a fork") { () throws(SystemError) in try ForkChannel() }
        let family = workingSetOfForks()
        let firstWrites = family?.read()
        // Both from what the memory began with and from what earlier forks wrote; what is in both is had once.
        let firstTouched = WorkingSet(joining: [workingSet.withLock { $0 }, firstWrites].compactMap(\.self))
        let start = monotonicNanoseconds()
        var pause = ForkPause()
        var processes: [ForkedProcessNumber] = []
        try life.withLock { life throws(MachineError) in
            let wasRunning = life.phase == .running
            switch life.phase {
            case .made: throw .state("the machine was not started yet")
            case .finished: throw .state("the machine has ended")
            case .paused: break
            case .running: try stand(&life)
            }
            defer { if wasRunning { release(&life) } }
            devices.workers.waitUntilIdle()
            // A child has no server; what it has not been handed would be zero there.
            if memoryServer != nil {
                try system("a fork") { () throws(SystemError) in
                    try memory.populate(0..<memory.byteCount, writing: false)
                }
            }
            var copies = DiskCopies()
            do throws(MachineError) {
                for child in children { try copies.make(child, of: self) }
                let state = try captureState()
                let forkStart = monotonicNanoseconds()
                processes = try forkProcesses(wanted.count, keeping: descriptors, channel) { [self] index in
                    let configuration = wanted[index]
                    return ForkedChild(index: index, isRunning: wasRunning) {
                        [self] observer, handed throws(MachineError) in
                        var configuration = configuration
                        for (name, number) in handed { configuration.setPeer(of: name, to: .descriptor(number)) }
                        firstWrites?.populate(memory, isWritten: true)
                        let machine = try Machine(
                            configuration, observer: observer, host: HostVM(configuration.machine), memory: memory,
                            source: memoryBase.map { .file($0) }, origin: .saved(state, SavedTime()))
                        machine.family.withLock { $0 = family.map { ForkFamily(workingSet: $0, isChild: true) } }
                        if let firstTouched { machine.expect(firstTouched) }
                        return machine
                    } body: { child throws(MachineError) in
                        try body(child)
                    }
                }
                pause.forksInNanoseconds = monotonicNanoseconds() - forkStart
                // The fork took the guest's page tables from it, but for what is as it was mapped.
                if wasRunning {
                    firstWrites?.populate(memory, isWritten: true)
                    if let firstTouched {
                        prefault(firstTouched.outside(memory.rangesUnwritten).stretches.map(\.range))
                    }
                }
            } catch {
                copies.remove()
                throw error
            }
        }
        pause.inNanoseconds = monotonicNanoseconds() - start
        goesOn(pause)
        let outcomes = channel.outcomes(of: processes)
        for (child, outcome) in zip(children, outcomes) {
            if case .failed = outcome { DiskCopies.remove(child) }
        }
        return ForkReport(pause: pause, outcomes: outcomes)
    }

    /// What is written to needs a disk of the child's own, and two machines behind one network back end take each other's
    /// frames.
    private func checkSharing(_ child: MachineOverrides) throws(MachineError) {
        for drive in configuration.drives where !drive.isReadOnly {
            guard child.drives.contains(where: { $0.identifier == drive.identifier }) else {
                throw .configuration(
                    field: "drive_overrides",
                    problem: "the machine writes to the drive \(drive.identifier): each fork needs a file of its own")
            }
        }
        for interface in configuration.networkInterfaces {
            let override = child.networkInterfaces.first { $0.identifier == interface.identifier }
            guard override?.isHanded != true else { continue }
            let isShared = if case .descriptor = interface.peer { override?.peer == interface.peer } else { false }
            guard override != nil, !isShared else {
                throw .configuration(
                    field: "network_overrides",
                    problem: "each fork needs a back end of its own for the interface \(interface.identifier)")
            }
        }
        guard configuration.vsock == nil || child.vsockPath != nil else {
            throw .configuration(
                field: "vsock_override", problem: "each fork needs a vsock socket of its own")
        }
    }

    /// Forks `count` times, on a thread made for it. A fork that the system refuses is that child's failure.
    private func forkProcesses(
        _ count: Int, keeping kept: [[Int32]], _ channel: ForkChannel,
        child: @escaping @Sendable (Int) -> ForkedChild
    ) throws(MachineError) -> [ForkedProcessNumber] {
        clinux_ignore_children()
        let result = ForkedProcessNumbers()
        let base = memoryBase?.file.raw
        let thread = try system("a fork") { () throws(SystemError) in
            try Platform.Thread(name: "fork", stackSizeInBytes: 1 << 20) { [self] in
                var numbers: [ForkedProcessNumber] = []
                for index in 0..<count {
                    let process = clinux_fork()
                    if process == 0 {
                        // The child. The old machine's parts are never used again, and never let go: their threads,
                        // which are not here, hold them.
                        unsafe _ = Unmanaged.passRetained(self)
                        channel.become(child(index), keeping: [0, 1, 2] + kept[index] + (base.map { [$0] } ?? []))
                    }
                    numbers.append(ForkedProcessNumber(process: process, code: process < 0 ? clinux_errno() : 0))
                }
                result.set(numbers)
            }
        }
        thread.join()
        return result.value
    }
}

/// A child's process in the parent's eyes, or why there is none.
struct ForkedProcessNumber: Sendable {
    let process: Int32
    let code: Int32
}

/// What the forking thread hands back in the parent.
private final class ForkedProcessNumbers: Sendable {
    private let content = Mutex<[ForkedProcessNumber]>([])
    var value: [ForkedProcessNumber] { content.withLock { $0 } }
    func set(_ numbers: [ForkedProcessNumber]) { content.withLock { $0 = numbers } }
}

extension MachineOverrides {
    /// Network back ends that are there already, and go to the machine.
    fileprivate var networkDescriptors: [Int32] {
        networkInterfaces.compactMap { interface in
            if case .descriptor(let number) = interface.peer, !interface.isHanded { number } else { nil }
        }
    }
}

extension MachineConfiguration {
    fileprivate mutating func setPeer(of name: String, to peer: NetworkInterface.Peer) {
        guard let index = networkInterfaces.firstIndex(where: { $0.identifier == name }) else { return }
        networkInterfaces[index].peer = peer
    }
}
