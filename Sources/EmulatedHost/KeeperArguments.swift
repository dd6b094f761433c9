// SPDX-License-Identifier: Apache-2.0

/// A configuration as the keeper's command line: `--name=value` each, in any order, all of them.
extension HostConfiguration {
    var keeperArguments: [String] {
        [
            "--data=\(paths.data)", "--runtime=\(paths.runtime)", "--logs=\(paths.logs)", "--store=\(paths.store)",
            "--kernel=\(kernel)", "--initramfs=\(initramfs)", "--qemu=\(qemu)", "--memory=\(memoryInMiB)",
            "--idle=\(idleInSeconds)", "--identity=\(identity)", "--fabric=\(fabric)",
        ]
    }

    init(keeperArguments: [String]) throws(EmulatedHostError) {
        var values: [Substring: String] = [:]
        for argument in keeperArguments {
            guard argument.hasPrefix("--"), let equals = argument.firstIndex(of: "=") else {
                throw .badSetting("the keeper does not know the argument \(argument)")
            }
            values[argument[argument.index(argument.startIndex, offsetBy: 2)..<equals]] =
                String(argument[argument.index(after: equals)...])
        }
        func value(_ name: Substring) throws(EmulatedHostError) -> String {
            guard let value = values[name] else { throw .badSetting("the keeper's argument --\(name) is missing") }
            return value
        }
        func number(_ name: Substring) throws(EmulatedHostError) -> Int {
            guard let number = Int(try value(name)), number >= 0 else {
                throw .badSetting("the keeper's argument --\(name) is no number")
            }
            return number
        }
        paths = HostPaths(
            data: try value("data"), runtime: try value("runtime"), logs: try value("logs"),
            store: try value("store"))
        kernel = try value("kernel")
        initramfs = try value("initramfs")
        qemu = try value("qemu")
        memoryInMiB = try number("memory")
        idleInSeconds = try number("idle")
        identity = try value("identity")
        fabric = try value("fabric")
        keeper = []
    }
}
