// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import KVM
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio

/// What came of one child of a fork.
package enum ForkOutcome: Equatable, Sendable {
    /// It runs as this process, which is waited for by nobody.
    case made(process: Int32)
    /// There is no such machine: why.
    case failed(String)
}

/// A running machine becomes several.
///
/// KVM ties a VM to the process that made it, and so a machine is cloned by forking its process: the child has all of
/// the guest's memory, copy-on-write, makes a VM of its own over it, and puts the state into it that was taken before
/// the fork. Nothing is written to a disk, and what neither writes to, all share.
///
/// A forked process has one thread. All others of the machine stand at their gates when the process forks, workers are
/// idle, and nothing that they hold is used in the child: that makes everything anew, and closes what it inherited of
/// the machine. The thread that forks is made for it. It becomes the child's only one, and its thread-local values,
/// among them the thread's number that locks are marked with, were never set.
extension Machine {
    /// What a child does: it is handed its number among the children, and its machine, made and not yet started. It has
    /// this thread alone, and inherited whatever the process had open besides the old machine's.
    package typealias ForkBody = @Sendable (_ child: Int, _ machine: Machine) -> Never

    /// Forks the machine, once for each of `children`, in one pause. A machine that ran goes on running.
    /// - Parameters:
    ///   - children: what is another in each. Disks that are written to and the vsock device need an override.
    ///   - observer: what each child's machine tells of itself.
    ///   - body: runs in the child, on a thread with 1 MiB of stack, and does not return.
    package func fork(
        _ children: [MachineOverrides], observer: @escaping @Sendable (Int) -> MachineObserver,
        child body: @escaping ForkBody
    ) throws(MachineError) -> [ForkOutcome] {
        var configurations: [MachineConfiguration] = []
        for child in children {
            try checkSharing(child)
            configurations.append(try child.apply(to: configuration))
        }
        var attempts: [ForkAttempt] = []
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
            let state = try captureState()
            let inherited = openDescriptors()
            clinux_ignore_children()
            for (index, configuration) in configurations.enumerated() {
                attempts.append(
                    try attempt(inherited) { [self] () throws(MachineError) -> () -> Never in
                        let machine = try Machine(
                            configuration, observer: observer(index), host: HostVM(configuration.machine),
                            memory: memory, base: memoryBase, origin: .saved(state, SavedTime()))
                        return { body(index, machine) }
                    })
            }
        }
        return attempts.map { $0.outcome() }
    }

    /// Two machines that write to one disk would destroy it; two that read one TAP device would each get half of it.
    private func checkSharing(_ child: MachineOverrides) throws(MachineError) {
        for drive in configuration.drives where !drive.isReadOnly {
            guard child.drives.contains(where: { $0.identifier == drive.identifier }) else {
                throw .configuration(
                    field: "drive_overrides",
                    problem: "the machine writes to the drive \(drive.identifier): each fork needs a file of its own")
            }
        }
        for interface in configuration.networkInterfaces {
            guard case .descriptor = interface.peer,
                !child.networkInterfaces.contains(where: { $0.identifier == interface.identifier })
            else { continue }
            throw .configuration(
                field: "network_overrides",
                problem: "the interface \(interface.identifier) has a descriptor: each fork needs one of its own")
        }
        guard configuration.vsock == nil || child.vsockPath != nil else {
            throw .configuration(
                field: "vsock_override", problem: "each fork needs a vsock socket of its own")
        }
    }

    /// All descriptors of the machine but that of its memory's file, which a child keeps.
    private func openDescriptors() -> [Int32] {
        var result = [vm.openDescriptor(), ended.descriptor.raw] + loop.openDescriptors()
        result += runners.map { $0.vcpu.openDescriptor() }
        result += devices.ports.serial.openDescriptors()
        for device in devices.virtio { result += device.openDescriptors() }
        return result
    }

    /// Forks once, on a thread made for it.
    private func attempt(
        _ inherited: [Int32], make: @escaping @Sendable () throws(MachineError) -> (() -> Never)
    ) throws(MachineError) -> ForkAttempt {
        let pipe = try system("a fork") { () throws(SystemError) in try Pipe() }
        let (reading, writing) = (pipe.reading.raw, pipe.writing.raw)
        let outcome = ForkedProcess()
        let thread = try system("a fork") { () throws(SystemError) in
            try Platform.Thread(name: "fork", stackSizeInBytes: 1 << 20) { [self] in
                let process = clinux_fork()
                guard process == 0 else { return outcome.set(process, clinux_errno()) }
                // The child. The old machine's parts are never used again, and never let go: their threads, which are
                // not here, hold them.
                unsafe _ = Unmanaged.passRetained(self)
                _ = close(reading)
                for descriptor in inherited { _ = close(descriptor) }
                let report = Descriptor(owning: writing)
                let run: () -> Never
                do throws(MachineError) { run = try make() } catch {
                    try? report.writeAll(Array("\(error)".utf8))
                    _exit(1)
                }
                report.close()
                run()
            }
        }
        thread.join()
        guard let value = outcome.value, value.process > 0 else {
            throw .system("a fork", SystemError("fork", code: outcome.value?.code ?? 0))
        }
        return ForkAttempt(process: value.process, report: SharedDescriptor(pipe.reading))
    }
}

/// What the forking thread hands back in the parent.
private final class ForkedProcess: Sendable {
    private let content = Mutex<(process: Int32, code: Int32)?>(nil)
    var value: (process: Int32, code: Int32)? { content.withLock { $0 } }
    func set(_ process: Int32, _ code: Int32) { content.withLock { $0 = (process, code) } }
}

/// A child that was forked, and the pipe that it says on what went wrong, if anything did.
private struct ForkAttempt {
    let process: Int32
    let report: SharedDescriptor

    /// Waits until the child has its machine.
    func outcome() -> ForkOutcome {
        guard let text = try? report.descriptor.readAll(limit: 1 << 16) else {
            return .failed("the child says nothing that can be read")
        }
        return text.isEmpty ? .made(process: process) : .failed(String(decoding: text, as: UTF8.self))
    }
}
