// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import KVM
internal import Launch
internal import Platform
internal import Wire

/// `martlet kvm`
struct KVMCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kvm", abstract: "Find out about this machine's KVM.", subcommands: [Check.self])

    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say whether KVM is usable here, and if not, why.",
            discussion: """
                Runs a small 64-bit guest that does what kernels do. Exit status: 0 usable, 1 not; where it is not, \
                containers run in an emulated host (martlet host).
                """)

        @Flag(help: "Answer with a JSON object.")
        var json = false

        func run() throws {
            let start = monotonicNanoseconds()
            let verdict = KVMProbe.run(path: KVMMemo.device)
            let milliseconds = (monotonicNanoseconds() - start) / 1_000_000
            let device = KVMMemo.device
            switch verdict {
            case .usable(let slowdown):
                let rounded = (slowdown * 100).rounded() / 100
                if json {
                    let answer: JSON = [
                        "usable": true, "device": .string(device), "slowdown": .double(rounded),
                        "milliseconds": .number(milliseconds),
                    ]
                    print(answer)
                } else {
                    print("KVM is usable: \(device) ran a 64-bit guest (\(milliseconds) ms).")
                }
            case .unusable(let fault):
                if json {
                    let answer: JSON = [
                        "usable": false, "device": .string(device), "reason": .string("\(fault)"),
                        "milliseconds": .number(milliseconds),
                    ]
                    print(answer)
                } else {
                    print("KVM is not usable: \(fault) (\(milliseconds) ms).")
                    print("Containers run in an emulated host instead; see martlet host --help.")
                }
                throw Failure(silentlyWith: 1)
            }
        }
    }
}
