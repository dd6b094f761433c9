// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// What `KVMProbe.run` found.
package enum KVMVerdict: Sendable {
    /// Ordinary kernels run here.
    /// - Parameter slowdown: the time of a counted loop in a guest over its time outside.
    case usable(slowdown: Double)
    case unusable(KVMFault)
}

/// Why KVM on this host cannot run an ordinary kernel.
package enum KVMFault: Error, Sendable, CustomStringConvertible {
    /// The device is missing, refused or foreign, or a VM could not be made.
    case setup(KVMError)
    /// The guest stopped at something that every kernel needs.
    case stopped(at: String, why: String)
    /// The guest runs, but as slowly as if each instruction were interpreted.
    case slow(Double)
    /// The guest neither finished nor stopped.
    case hung(at: String)

    package var description: String {
        switch self {
        case .setup(let error): error.description
        case .stopped(let place, let why): "KVM's guest stopped at \(place): \(why)"
        case .slow(let factor):
            "KVM emulates instructions in software: a loop in a guest takes \(Int(factor)) times as long as outside"
        case .hung(let place): "KVM's guest did not get past \(place) within \(KVMProbe.limitInMilliseconds) ms"
        }
    }
}

/// Finds out whether KVM can run an ordinary 64-bit kernel here, by running a guest that does what such a kernel does.
/// That the device opens and its capabilities look right does not tell: some hosts have a KVM that interprets
/// kernel-mode code, slowly and without the instructions that kernels use.
package enum KVMProbe {
    static let limitInMilliseconds: UInt64 = 600
    /// Real virtualization is at 1; emulation of one instruction after another at several hundred.
    static let tolerableSlowdown = 30.0
    private static let rounds = 5

    /// Runs the probe: some milliseconds where all is well, `limitInMilliseconds` at most where not.
    package static func run(path: String = KVMSystem.defaultPath) -> KVMVerdict {
        do throws(KVMFault) {
            return .usable(slowdown: try measure(path))
        } catch {
            return .unusable(error)
        }
    }

    private static func measure(_ path: String) throws(KVMFault) -> Double {
        let result: Result<Double, KVMFault>
        do throws(KVMError) {
            let guest = try LoadedGuest(path)
            let watchdog = try Watchdog(guest.vcpu.makeKick(), limitInMilliseconds: limitInMilliseconds)
            result = Result { () throws(KVMFault) in try observe(guest.vcpu) }
            watchdog.end()
        } catch {
            throw .setup(error)
        }
        return try result.get()
    }

    /// Runs the guest to the end of its last round and gives the slowdown.
    private static func observe(_ vcpu: borrowing VCPU) throws(KVMFault) -> Double {
        let native = nativeLoopInNanoseconds()
        var reached: ProbeStage?
        var fastest = UInt64.max
        var rounds = 0
        var start = monotonicNanoseconds()
        while rounds < Self.rounds {
            let exit: KVMExit
            do throws(KVMError) { exit = try vcpu.run() } catch {
                throw .stopped(at: ProbeStage.pending(after: reached), why: error.description)
            }
            let now = monotonicNanoseconds()
            guard case .portWrite(ProbeGuest.port, _, let data) = exit,
                let stage = ProbeStage(rawValue: UInt8(truncatingIfNeeded: data.number))
            else { throw fault(exit, after: reached) }
            if stage == .wrongResult {
                throw .stopped(at: ProbeStage.pending(after: stage), why: "it did not exchange equal operands")
            }
            if stage == .loop {
                rounds += 1
                fastest = min(fastest, now - start)
                // One round is enough to tell an interpreter.
                if Double(fastest) > 4 * tolerableSlowdown * native { break }
            }
            reached = stage
            start = monotonicNanoseconds()
        }
        let slowdown = Double(fastest) / native
        guard slowdown <= tolerableSlowdown else { throw .slow(slowdown) }
        return slowdown
    }

    private static func fault(_ exit: KVMExit, after reached: ProbeStage?) -> KVMFault {
        let place = ProbeStage.pending(after: reached)
        return switch exit {
        case .interrupted: .hung(at: place)
        case .internalError(let error): .stopped(at: place, why: error.description)
        case .shutdown: .stopped(at: place, why: "an exception that a processor does not raise there (triple fault)")
        case .entryFailed(let reason):
            .stopped(at: place, why: "the processor refuses the guest's state (reason 0x\(String(reason, radix: 16)))")
        case .halted: .stopped(at: place, why: "the guest halted")
        case .unexpected(let reason): .stopped(at: place, why: "KVM exit reason \(reason)")
        default: .stopped(at: place, why: "the guest went astray")
        }
    }

    private static func nativeLoopInNanoseconds() -> Double {
        var fastest = UInt64.max
        for _ in 0..<3 {
            let start = monotonicNanoseconds()
            clinux_counted_loop(ProbeGuest.loopIterations)
            fastest = min(fastest, monotonicNanoseconds() - start)
        }
        return Double(max(1, fastest))
    }
}

/// A VM with the probe's program and one vCPU at its start.
private struct LoadedGuest: ~Copyable {
    private let memory: MemoryMapping
    private let vm: VM
    let vcpu: VCPU

    init(_ path: String) throws(KVMError) {
        let kvm = try KVMSystem(path: path)
        try kvm.require(StaticCapability.requiredForMachines)
        let vm = try kvm.createVM()
        let memory = try system { () throws(SystemError) in
            try MemoryMapping(count: ProbeGuest.sizeInBytes, shared: false)
        }
        ProbeGuest.load(into: memory)
        try unsafe vm.setMemory(slot: 0, guestAddress: 0, host: memory.start, countInBytes: UInt64(memory.count))
        let vcpu = try vm.createVCPU(index: 0)
        try vcpu.setCPUID(kvm.supportedCPUID())
        try ProbeGuest.prepare(vcpu)
        try VCPUKick.prepare()
        self.memory = memory
        self.vm = vm
        self.vcpu = vcpu
    }
}

/// A thread that takes this one out of the guest when the time is over.
struct Watchdog: ~Copyable {
    private let finished: DoneSignal
    private let thread: Platform.Thread

    init(_ kick: VCPUKick, limitInMilliseconds: UInt64) throws(KVMError) {
        let finished = try system { () throws(SystemError) in try DoneSignal() }
        let watched = ThreadReference.current
        thread = try system { () throws(SystemError) in
            try Platform.Thread(name: "kvm-probe", stackSizeInBytes: 64 << 10) {
                if !finished.wait(milliseconds: limitInMilliseconds) { kick.kick(watched) }
            }
        }
        self.finished = finished
    }

    /// Ends the watch. No kick comes after this returns.
    consuming func end() {
        finished.counter.signal()
        thread.join()
    }
}

final class DoneSignal: Sendable {
    let counter: EventCounter
    init() throws(SystemError) { counter = try EventCounter() }

    func wait(milliseconds: UInt64) -> Bool {
        var entry = pollfd(fd: counter.descriptor.raw, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&entry, 1, Int32(milliseconds)) > 0
    }
}
