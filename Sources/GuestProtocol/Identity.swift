// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// `identify`: what makes a machine one of its own, whatever it was made from. Before this nothing of a container runs.
package struct Identity: Equatable, Sendable {
    /// Fewer bytes of entropy than these are refused.
    package static let leastEntropy = 32
    /// The most network interfaces.
    package static let interfaceLimit = 8

    /// Mixed into the kernel's random numbers and credited; the kernel's generator is seeded anew.
    package var entropy: [UInt8] = []
    /// Wall clock, nanoseconds since 1970.
    package var clock: UInt64 = 0
    package var hostname: Text = []
    /// 32 hexadecimal digits (machine-id(5)).
    package var machineID: Text = []
    /// The machine was made from one that ran: connections that it inherited are another's, and are reset.
    package var isClone = false
    /// What the interfaces of a clone are to be from now on.
    package var interfaces: [InterfaceSettings] = []
    /// Contents of a clone's /etc/hosts and /etc/resolv.conf; what is empty stays as it is.
    package var hosts: Text = []
    package var resolvConf: Text = []
    /// What a clone's original drew when it was identified (`StepReport.sample`), which the clone must not draw; empty
    /// where that is not known.
    package var originalSample: [UInt8] = []

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: entropy = field.bytes
            case 2: clock = field.number
            case 3: hostname = field.bytes
            case 4: machineID = field.bytes
            case 5: isClone = field.number != 0
            case 6:
                guard interfaces.count < Identity.interfaceLimit, let settings = InterfaceSettings(field.bytes) else {
                    return nil
                }
                interfaces.append(settings)
            case 7: hosts = field.bytes
            case 8: resolvConf = field.bytes
            case 9: originalSample = field.bytes
            default: break
            }
        }
        guard !reader.isMalformed, entropy.count >= Identity.leastEntropy else { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, entropy)
        if clock != 0 { writer.append(2, number: clock) }
        if !hostname.isEmpty { writer.append(3, hostname) }
        if !machineID.isEmpty { writer.append(4, machineID) }
        if isClone { writer.append(5, number: UInt8(1)) }
        for interface in interfaces { writer.append(6, interface.payload) }
        if !hosts.isEmpty { writer.append(7, hosts) }
        if !resolvConf.isEmpty { writer.append(8, resolvConf) }
        if !originalSample.isEmpty { writer.append(9, originalSample) }
        return writer.bytes
    }
}

/// What was done, step by step, and how long each took: `identified`, `configured`, `frozen` and `thawed` carry it.
package struct StepReport: Equatable, Sendable {
    package struct Step: Equatable, Sendable {
        package var name: Text
        package var nanoseconds: UInt64

        package init(_ name: Text, nanoseconds: UInt64) {
            self.name = name
            self.nanoseconds = nanoseconds
        }
    }

    /// More are not read.
    package static let limit = 32

    package var steps: [Step] = []
    /// Random bytes that the guest drew after its generator was seeded anew: no two machines show the same.
    package var sample: [UInt8] = []
    /// Why the last step failed; empty where none did.
    package var failure: Text = []

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1:
                guard steps.count < StepReport.limit else { return nil }
                steps.append(Step(field.bytes, nanoseconds: 0))
            case 2:
                guard !steps.isEmpty else { return nil }
                steps[steps.count - 1].nanoseconds = field.number
            case 3: sample = field.bytes
            case 4: failure = field.bytes
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        for step in steps {
            writer.append(1, step.name)
            writer.append(2, number: step.nanoseconds)
        }
        if !sample.isEmpty { writer.append(3, sample) }
        if !failure.isEmpty { writer.append(4, failure) }
        return writer.bytes
    }
}

/// `freeze` and `thaw`: for whom, and how long the container's own hooks may take.
package struct Interruption: Equatable, Sendable {
    /// For each hook, in milliseconds.
    package var hookLimit: UInt64 = 0
    /// The machine is another than the one that was frozen: the hook for clones is run first.
    package var isClone = false

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: hookLimit = field.number
            case 2: isClone = field.number != 0
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: hookLimit)
        if isClone { writer.append(2, number: UInt8(1)) }
        return writer.bytes
    }
}

/// `running`: a session that goes on from before.
package struct RunningSession: Equatable, Sendable {
    package var hasInput = false
    package var isOutputEnded = false
    package var isErrorsEnded = false

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: hasInput = field.number != 0
            case 2: isOutputEnded = field.number != 0
            case 3: isErrorsEnded = field.number != 0
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        if hasInput { writer.append(1, number: UInt8(1)) }
        if isOutputEnded { writer.append(2, number: UInt8(1)) }
        if isErrorsEnded { writer.append(3, number: UInt8(1)) }
        return writer.bytes
    }
}

/// `save`: into which directory, which is there and empty, and how.
package struct SaveOrder: Equatable, Sendable {
    package enum Manner: UInt8, Sendable {
        /// All of the memory, while the machine stands still.
        case full = 0
        /// All of it while the machine runs, as one pair of files, then what was written meanwhile as another.
        case live = 1
        /// What was written since the machine was saved last, where that is known, and all of it otherwise; from here on
        /// it is known.
        case diff = 2
    }

    package var directory: Text
    package var manner: Manner

    package init(directory: Text, manner: Manner = .full) {
        self.directory = directory
        self.manner = manner
    }

    package init?(_ payload: [UInt8]) {
        directory = []
        var number: UInt64 = 0
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: directory = field.bytes
            case 2: number = field.number
            default: break
            }
        }
        guard !reader.isMalformed, !directory.isEmpty,
            let manner = Manner(rawValue: UInt8(truncatingIfNeeded: min(number, 255)))
        else { return nil }
        self.manner = manner
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, directory)
        if manner != .full { writer.append(2, number: manner.rawValue) }
        return writer.bytes
    }
}
