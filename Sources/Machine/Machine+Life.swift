// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import Platform
internal import Synchronization
internal import Virtio

/// How far a machine has come, and the threads that it has.
struct MachineLife: Sendable {
    enum Phase {
        case made
        case running
        /// All threads stand still at their gates.
        case paused
        case finished
    }

    var phase = Phase.made
    var history: MemoryHistory
    var vcpuThreads: [ThreadBox] = []
    var deviceThread: ThreadBox?

    /// Lets a thread be part of a value that is copied.
    ///
    /// `@unchecked Sendable`: reached under the lock of the machine's life only.
    final class ThreadBox: @unchecked Sendable {
        private var thread: Platform.Thread?
        init(_ thread: consuming Platform.Thread) { self.thread = consume thread }

        func send(_ signal: Int32) { thread?.send(signal) }
        func join() { thread.take()?.join() }
    }
}

/// Starting, pausing, resuming, ending. One caller at a time is in any of these; others wait.
extension Machine {
    private static var deviceStackSize: Int { 256 << 10 }

    /// Whether the machine was started and stands still. For any thread.
    package var isPaused: Bool { isStandingStill.load(ordering: .acquiring) }

    /// Starts the machine's threads. Once, whatever came of it; `finish` is called in any case.
    /// - Parameter paused: nothing of the guest runs before `resume`.
    package func start(paused: Bool = false) throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            guard life.phase == .made else { throw .state("the machine was started before") }
            life.phase = .running
            if paused {
                vcpuGate.close()
                loopGate.close()
            }
            let loop = loop
            loopGate.join()
            do throws(SystemError) {
                let thread = try Platform.Thread(name: "devices", stackSizeInBytes: Self.deviceStackSize) { [self] in
                    loopGate.pass()
                    do throws(SystemError) { try loop.run() } catch { end(.internalError("the device loop: \(error)")) }
                    loopGate.leave()
                }
                life.deviceThread = MachineLife.ThreadBox(thread)
            } catch {
                loopGate.leave()
                throw .system("the device thread", error)
            }
            for runner in runners {
                vcpuGate.join()
                do throws(SystemError) {
                    let thread = try Platform.Thread(name: "vcpu\(runner.vcpu.index)") { runner.run() }
                    life.vcpuThreads.append(MachineLife.ThreadBox(thread))
                } catch {
                    vcpuGate.leave()
                    throw .system("a vCPU's thread", error)
                }
            }
            guard paused else { return }
            vcpuGate.waitForAll()
            loopGate.waitForAll()
            life.phase = .paused
            isStandingStill.store(true, ordering: .releasing)
        }
    }

    /// Takes all vCPUs out of the guest and lets the devices finish what they have begun: when this returns, nothing
    /// changes the guest's memory, its disks or its state. A machine that is paused already stays so.
    package func pause() throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            switch life.phase {
            case .paused: return
            case .made: throw .state("the machine was not started yet")
            case .finished: throw .state("the machine has ended")
            case .running: try stand(&life)
            }
        }
    }

    /// Lets a paused machine go on. One that runs goes on running.
    package func resume() throws(MachineError) {
        try life.withLock { life throws(MachineError) in
            switch life.phase {
            case .running: return
            case .made: throw .state("the machine was not started yet")
            case .finished: throw .state("the machine has ended")
            case .paused: release(&life)
            }
        }
    }

    /// Ends the machine if it has not ended by itself. All threads have ended and all output is written when this
    /// returns.
    /// - Returns: why the machine ended.
    @discardableResult
    package func finish() -> MachineExit {
        end(.killed("the monitor"))
        life.withLock { life in
            for (thread, runner) in zip(life.vcpuThreads, runners) {
                runner.kick.request()
                thread.send(VCPUKick.signal)
            }
            vcpuGate.open()
            loopGate.open()
            for thread in life.vcpuThreads { thread.join() }
            loop.stop()
            life.deviceThread?.join()
            if life.phase != .finished { devices.finish() }
            loop.forgetHandlers()
            memoryServer?.end()
            life.vcpuThreads = []
            life.deviceThread = nil
            life.phase = .finished
            isStandingStill.store(false, ordering: .releasing)
        }
        return exit ?? .killed("the monitor")
    }

    // MARK: - Standing still

    /// vCPUs first: one that resets a device waits for the loop.
    func stand(_ life: inout MachineLife) throws(MachineError) {
        vcpuGate.close()
        for (thread, runner) in zip(life.vcpuThreads, runners) {
            runner.kick.request()
            thread.send(VCPUKick.signal)
        }
        vcpuGate.waitForAll()
        loopGate.close()
        let isTaken = loop.post { [self] in
            for device in devices.virtio { device.quiesce() }
            devices.ports.serial.flush()
            loopGate.pass()
        }
        if isTaken { loopGate.waitForAll() }
        guard isTaken, !hasEnded else {
            // Those who stand at the gates see for themselves that it is over.
            vcpuGate.open()
            loopGate.open()
            throw .state("the machine has ended")
        }
        life.phase = .paused
        isStandingStill.store(true, ordering: .releasing)
    }

    func release(_ life: inout MachineLife) {
        isStandingStill.store(false, ordering: .releasing)
        life.phase = .running
        for runner in runners { runner.vcpu.tellOfPause() }
        // A device that gave back what it had under way may have left more where it was.
        for device in devices.virtio { device.kickQueues() }
        loopGate.open()
        // Before the gate opens: whoever stops them next asks again after that.
        for runner in runners { runner.kick.clear() }
        vcpuGate.open()
    }
}
