// SPDX-License-Identifier: Apache-2.0

/// A machine that a running one is to be forked into, and its monitor: what of both is another. Paths are the child's,
/// which are relative to its directory.
package struct ForkChild: Equatable, Sendable {
    /// The most children of one request.
    package static let limit = 1000

    package struct DriveOverride: Equatable, Sendable {
        package var identifier: String
        package var path: String
        /// The file is made, as a copy of the one that the machine writes to.
        package var isCopied = false
    }

    package struct HandedInterface: Equatable, Sendable {
        package var identifier: String
        package var guestMAC: MACAddress?
    }

    /// The machine's name.
    package var identifier: String
    /// The monitor's working directory; nil for that of the parent's.
    package var directory: String?
    /// Where its API listens; nil for no API.
    package var socketPath: String?
    /// Where whoever looks after it listens; nil for nobody.
    package var supervisorPath: String?
    /// Files or named pipes that are its standard output and standard error; nil for /dev/null.
    package var outputPath: String?
    package var errorsPath: String?
    /// nil for standard error.
    package var logPath: String?
    package var metricsPath: String?
    /// Where the serial port's output goes; nil for standard output.
    package var serialPath: String?
    package var drives: [DriveOverride] = []
    package var interfaces: [SnapshotLoading.InterfaceOverride] = []
    /// Those whose back ends come as descriptors from whoever looks after it, in this order.
    package var handedInterfaces: [HandedInterface] = []
    package var vsockPath: String?

    package init(identifier: String) { self.identifier = identifier }

    /// A path of the child's as one for the parent.
    package func resolve(_ path: String) -> String {
        guard let directory, !path.hasPrefix("/") else { return path }
        return "\(directory)/\(path)"
    }
}

/// Whether a text can be a machine's name: 1 to 64 letters, digits and `-`.
package func isMachineIdentifier(_ text: String) -> Bool {
    let isGood = text.utf8.allSatisfy { byte in
        byte == 0x2d || byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7a
    }
    return isGood && !text.isEmpty && text.utf8.count <= 64
}
