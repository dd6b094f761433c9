// SPDX-License-Identifier: Apache-2.0

/// What a client asks for, once its request is understood.
package enum APIRequest: Equatable, Sendable {
    case describeInstance
    case version
    case describeConfiguration
    case describeMachine
    case introspect
    case setMachine(MachineUpdate)
    case setSpareSlots(Int)
    case setBootSource(BootSource)
    case setDrive(Drive)
    case setInterface(NetworkInterface)
    case setVsock(Vsock)
    case setEntropy(RateLimit?)
    case setSerial(Serial)
    case setLogger(Logger)
    case setMetrics(MetricsSettings)
    case updateDrive(id: String, path: String?, limit: RateLimitUpdate?)
    case updateInterface(id: String, receive: RateLimitUpdate?, transmit: RateLimitUpdate?)
    /// Take a device away that needs a PCI bus for that.
    case remove(id: String)
    case removeInterface(id: String)
    case start
    case sendCtrlAltDel
    case flushMetrics
    case pause
    case resume
    case createSnapshot(SnapshotCreation)
    case loadSnapshot(SnapshotLoading)
    case fork([ForkChild])
    /// Write which pages were touched since the snapshot was loaded, to this path.
    case recordWorkingSet(String)
    /// Something that a later version has, and in which phase it will be asked for.
    case later(String, APIPhaseRule)
}

/// When a request is taken.
package enum APIPhaseRule: Equatable, Sendable {
    case always
    case beforeStart
    case afterStart
}

/// New values for some of a machine's settings.
package struct MachineUpdate: Equatable, Sendable {
    package var vcpuCount: Int?
    package var memoryInMiB: UInt64?
    package var simultaneousMultithreading: Bool?
    package var tracksDirtyPages: Bool?
    package var hugePages: MachineSettings.HugePages?
    package var acpi: Bool?
    /// The name of a CPU template; `None` for none.
    package var cpuTemplate: String?

    package init() {}
}

/// Where figures about the monitor go, and with what beside them.
package struct MetricsSettings: Equatable, Sendable {
    /// A file or a named pipe.
    package var path: String
    /// Each line has the machine's name.
    package var emitsIdentifier = false
    /// What each line has beside the figures: pairs of names and values.
    package var properties: [(name: String, value: String)]?

    package init(path: String) { self.path = path }

    package static func == (one: MetricsSettings, other: MetricsSettings) -> Bool {
        one.path == other.path && one.emitsIdentifier == other.emitsIdentifier
            && one.properties?.map(\.name) == other.properties?.map(\.name)
            && one.properties?.map(\.value) == other.properties?.map(\.value)
    }
}

package struct SnapshotCreation: Equatable, Sendable {
    package enum Kind: String, Equatable, Sendable {
        /// What was written since the last snapshot.
        case diff = "Diff"
        case full = "Full"
    }

    package var kind = Kind.full
    package var statePath: String
    package var memoryPath: String
    /// The machine runs meanwhile, and stands still for the last of it only.
    package var isLive = false
    /// Whether KVM and the devices record from here on what is written, so that a diff has that alone; nil leaves it.
    package var tracksDirtyPages: Bool?
}

package struct SnapshotLoading: Equatable, Sendable {
    package enum Memory: Equatable, Sendable {
        /// Mapped from a file.
        case file(HostFile)
        /// Served page by page by whoever listens at this unix socket, or is at the other end of it.
        case server(HostFile)
    }

    package struct InterfaceOverride: Equatable, Sendable {
        package var identifier: String
        package var peer: NetworkInterface.Peer
        /// The address in the device's configuration; nil for that of the snapshot's machine.
        package var guestMAC: MACAddress?
    }

    package struct DriveOverride: Equatable, Sendable {
        package var identifier: String
        package var content: Drive.Content
    }

    package var state: HostFile
    package var memory: Memory
    package var tracksDirtyPages = false
    package var resumes = false
    package var interfaces: [InterfaceOverride] = []
    package var drives: [DriveOverride] = []
    package var vsockPath: String?
    /// The socket that listens for it already.
    package var vsockListener: Int32?
    /// The guest's clock goes on by the time that passed since the snapshot, instead of from where it was.
    package var advancesClock = false
    /// What says which pages machines of the snapshot touch first; it may be missing.
    package var workingSetPath: String?
    /// nil for what the snapshot's machine had.
    package var hugePages: MachineSettings.HugePages?
}

/// Why a request is refused before anything looks at the machine. Always status 400.
package struct RequestFault: Error, Equatable, Sendable {
    package let message: String
    init(_ message: String) { self.message = message }

    static func unknownPath(_ method: HTTPMethod, _ path: String) -> RequestFault {
        RequestFault("Invalid request method and/or path: \(method.rawValue) \(path).")
    }

    static func body(_ error: BodyError) -> RequestFault {
        RequestFault("An error occurred when deserializing the json body of a request: \(error).")
    }

    /// What a later version will have.
    static func notSupported(_ what: String) -> RequestFault {
        RequestFault("The requested operation is not supported: this monitor has no \(what) yet.")
    }

    static let emptyIdentifier = RequestFault("The ID cannot be empty.")
    static let badIdentifier = RequestFault(
        "API Resource IDs can only contain alphanumeric characters and underscores.")
    static let longIdentifier = RequestFault("The ID has more than \(DeviceIdentifier.limit) characters.")
    static let otherIdentifier = RequestFault("The id from the path does not match the id from the body!")
}
