// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// Text crosses as UTF-8 bytes and stays bytes: paths and variables of an image need not be valid Unicode.
package typealias Text = [UInt8]

/// The protocol's version. A different major number ends the connection; minor numbers only add fields and kinds.
package enum ProtocolVersion {
    package static let major: UInt16 = 1
    package static let minor: UInt16 = 2
}

/// `hello`: who speaks.
package struct Hello: Equatable, Sendable {
    package var major = ProtocolVersion.major
    package var minor = ProtocolVersion.minor
    /// The program's version, for messages.
    package var program: Text = []
    /// From a guest: how many times it has lost a connection and made another. A machine that was restored counts one
    /// more than the one it was made from.
    package var generation: UInt64 = 0

    package init() {}

    package init?(_ payload: [UInt8]) {
        major = 0
        minor = 0
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: major = UInt16(truncatingIfNeeded: field.number)
            case 2: minor = UInt16(truncatingIfNeeded: field.number)
            case 3: program = field.bytes
            case 4: generation = field.number
            default: break
            }
        }
        if reader.isMalformed || major == 0 { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: major)
        writer.append(2, number: minor)
        if !program.isEmpty { writer.append(3, program) }
        if generation != 0 { writer.append(4, number: generation) }
        return writer.bytes
    }
}

/// `configure`: what the machine is to become.
package struct Configuration: Equatable, Sendable {
    /// Where the root file system comes from.
    package enum Root: UInt8, Sendable {
        /// An EROFS image on `rootDevice`, under an overlay in memory unless read-only: a container's machine.
        case image = 1
        /// The 9p share `shareTag`, read-only under an overlay in memory: the emulated host.
        case share = 2
    }
    package var root = Root.image
    /// For example `/dev/vda`.
    package var rootDevice: Text = []
    /// The place among the machine's virtio devices where the disk was put after the kernel had looked: it is looked at
    /// again. Nil where it was there from the beginning.
    package var rootSlot: UInt8?
    package var isReadOnly = false
    package var shareTag: Text = []
    /// A disk that keeps what is written under `stateMountPoint`; it is formatted by the host. Empty for none.
    package var stateDevice: Text = []
    package var stateMountPoint: Text = []
    package var hostname: Text = []
    /// Contents of /etc/resolv.conf and /etc/hosts; empty leaves the image's.
    package var resolvConf: Text = []
    package var hosts: Text = []
    /// Wall clock, nanoseconds since 1970; 0 leaves the machine's.
    package var clock: UInt64 = 0
    /// Mixed into the kernel's random numbers and credited.
    package var entropy: [UInt8] = []
    /// What the network interfaces are to be; loopback is always there.
    package var interfaces: [InterfaceSettings] = []

    package static let interfaceLimit = 8

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1:
                guard let known = Root(rawValue: UInt8(truncatingIfNeeded: field.number)) else { return nil }
                root = known
            case 2: rootDevice = field.bytes
            case 3: isReadOnly = field.number != 0
            case 4: shareTag = field.bytes
            case 5: stateDevice = field.bytes
            case 6: stateMountPoint = field.bytes
            case 7: hostname = field.bytes
            case 8: resolvConf = field.bytes
            case 9: hosts = field.bytes
            case 10: clock = field.number
            case 11: entropy = field.bytes
            case 12: rootSlot = UInt8(truncatingIfNeeded: field.number)
            case 13:
                guard interfaces.count < Self.interfaceLimit, let settings = InterfaceSettings(field.bytes) else {
                    return nil
                }
                interfaces.append(settings)
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: root.rawValue)
        if !rootDevice.isEmpty { writer.append(2, rootDevice) }
        if isReadOnly { writer.append(3, number: UInt8(1)) }
        if !shareTag.isEmpty { writer.append(4, shareTag) }
        if !stateDevice.isEmpty { writer.append(5, stateDevice) }
        if !stateMountPoint.isEmpty { writer.append(6, stateMountPoint) }
        if !hostname.isEmpty { writer.append(7, hostname) }
        if !resolvConf.isEmpty { writer.append(8, resolvConf) }
        if !hosts.isEmpty { writer.append(9, hosts) }
        if clock != 0 { writer.append(10, number: clock) }
        if !entropy.isEmpty { writer.append(11, entropy) }
        if let rootSlot { writer.append(12, number: rootSlot) }
        for settings in interfaces { writer.append(13, settings.payload) }
        return writer.bytes
    }
}

/// `request`: the process that is wanted.
package struct ProcessRequest: Equatable, Sendable {
    /// The arguments, the program first: a name without a slash is searched for in the PATH of `environment`.
    package var arguments: [Text] = []
    /// `NAME=value` each.
    package var environment: [Text] = []
    /// Made where it is missing, as docker does; empty for `/`.
    package var directory: Text = []
    /// `name`, `uid`, `name:group`, `uid:gid` and mixtures, looked up in the image's own files; empty for root.
    package var user: Text = []
    /// Standard input is a stream; otherwise it is /dev/null.
    package var hasInput = false
    /// The machine's main process: PID 1 of the container's own process namespace, whose end ends the container.
    package var isMain = false
    /// It need not wait for `go`: `started` comes in place of `accepted`. Without effect on a main process; a guest before
    /// 1.2 does not know it.
    package var startsAtOnce = false

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: arguments.append(field.bytes)
            case 2: environment.append(field.bytes)
            case 3: directory = field.bytes
            case 4: user = field.bytes
            case 5: hasInput = field.number != 0
            case 6: isMain = field.number != 0
            case 7: startsAtOnce = field.number != 0
            default: break
            }
        }
        if reader.isMalformed || arguments.isEmpty { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        for argument in arguments { writer.append(1, argument) }
        for variable in environment { writer.append(2, variable) }
        if !directory.isEmpty { writer.append(3, directory) }
        if !user.isEmpty { writer.append(4, user) }
        if hasInput { writer.append(5, number: UInt8(1)) }
        if isMain { writer.append(6, number: UInt8(1)) }
        if startsAtOnce { writer.append(7, number: UInt8(1)) }
        return writer.bytes
    }
}

/// `refused` and `failure`: why not.
package struct Refusal: Equatable, Sendable {
    /// The exit code that tells of it: 125 our failure, 126 not executable, 127 not found.
    package var exitCode: UInt8
    package var message: Text

    package init(exitCode: UInt8, message: Text) {
        self.exitCode = exitCode
        self.message = message
    }

    package init?(_ payload: [UInt8]) {
        exitCode = 125
        message = []
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: exitCode = UInt8(truncatingIfNeeded: field.number)
            case 2: message = field.bytes
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: exitCode)
        writer.append(2, message)
        return writer.bytes
    }
}

/// `exited`: how the process ended, and when (nanoseconds on the guest's monotonic clock).
package struct ExitReport: Equatable, Sendable {
    /// The exit status, or the signal's number.
    package var code: UInt8 = 0
    package var wasSignaled = false
    package var bootedAt: UInt64 = 0
    package var configuredAt: UInt64 = 0
    package var startedAt: UInt64 = 0
    package var exitedAt: UInt64 = 0

    package init() {}

    /// As a shell shows it: the status, or 128 plus the signal's number.
    package var shellStatus: UInt8 { wasSignaled ? 128 &+ code : code }

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: code = UInt8(truncatingIfNeeded: field.number)
            case 2: wasSignaled = field.number != 0
            case 3: bootedAt = field.number
            case 4: configuredAt = field.number
            case 5: startedAt = field.number
            case 6: exitedAt = field.number
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: code)
        if wasSignaled { writer.append(2, number: UInt8(1)) }
        writer.append(3, number: bootedAt)
        writer.append(4, number: configuredAt)
        writer.append(5, number: startedAt)
        writer.append(6, number: exitedAt)
        return writer.bytes
    }
}

/// `signal` (tag 1: the number), `activity` (tag 1: processes), `stop` (tag 1: milliseconds until force): one number.
package struct NumberMessage: Equatable, Sendable {
    package var number: UInt64

    package init(_ number: UInt64) {
        self.number = number
    }

    package init?(payload: [UInt8]) {
        var found: UInt64?
        var reader = FieldReader(payload)
        while let field = reader.next() {
            if field.tag == 1 { found = field.number }
        }
        guard let found, !reader.isMalformed else { return nil }
        number = found
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, number: number)
        return writer.bytes
    }
}
