// SPDX-License-Identifier: Apache-2.0

/// A file of the host's, or a socket, as whoever configures a machine names it.
package enum HostFile: Equatable, Hashable, Sendable, CustomStringConvertible, ExpressibleByStringInterpolation {
    case path(String)
    /// One that the monitor was started with, by its number: for a monitor that can reach no paths.
    case descriptor(Int32)

    package init(stringLiteral path: String) { self = .path(path) }

    /// - Parameters:
    ///   - path: its path, where it is given so.
    ///   - number: its descriptor's number, where it is given so.
    /// - Returns: nil where it is given in neither way, or in both.
    init?(path: String?, descriptor number: UInt64?) {
        switch (path, number) {
        case (let path?, nil): self = .path(path)
        case (nil, let number?): self = .descriptor(Int32(clamping: number))
        default: return nil
        }
    }

    package var path: String? { if case .path(let path) = self { path } else { nil } }
    package var descriptor: Int32? { if case .descriptor(let number) = self { number } else { nil } }

    package var description: String {
        switch self {
        case .path(let path): path
        case .descriptor(let number): "descriptor \(number)"
        }
    }
}

extension MachineConfiguration {
    /// The descriptors that the machine is made of, each with what it is for.
    package var descriptors: [(number: Int32, use: String)] {
        var result: [(number: Int32, use: String)] = []
        func add(_ file: HostFile?, _ use: String) {
            if let number = file?.descriptor { result.append((number, use)) }
        }
        add(bootSource.kernel, "the kernel")
        add(bootSource.initrd, "the initrd")
        for drive in drives { result += drive.content.descriptors.map { ($0, "the drive \(drive.identifier)") } }
        for interface in networkInterfaces {
            guard case .descriptor(let number) = interface.peer else { continue }
            result.append((number, "the interface \(interface.identifier)"))
        }
        if let number = vsock?.listener { result.append((number, "the vsock device")) }
        return result
    }

    /// What one descriptor is to be twice; nil where none is.
    package var descriptorConflict: String? { Self.conflict(among: descriptors) }

    static func conflict(among descriptors: [(number: Int32, use: String)]) -> String? {
        var uses: [Int32: String] = [:]
        for (number, use) in descriptors {
            if let other = uses[number] {
                return
                    "descriptor \(number) is \(other == use ? "twice in \(use)" : "\(other) already, and cannot be \(use) too")"
            }
            uses[number] = use
        }
        return nil
    }
}

extension Drive.Content {
    package var descriptors: [Int32] {
        switch self {
        case .path: []
        case .descriptor(let number): [number]
        case .extents(let extents):
            // Several extents may be of one file.
            extents.reduce(into: []) { result, extent in
                if let number = extent.file.descriptor, !result.contains(number) { result.append(number) }
            }
        }
    }
}

extension SnapshotLoading {
    /// What one descriptor is to be twice; nil where none is.
    package var descriptorConflict: String? {
        var result: [(number: Int32, use: String)] = []
        if let number = state.descriptor { result.append((number, "the state")) }
        switch memory {
        case .file(let file): if let number = file.descriptor { result.append((number, "the memory")) }
        case .server(let socket):
            if let number = socket.descriptor { result.append((number, "the connection to the memory's server")) }
        }
        for drive in drives { result += drive.content.descriptors.map { ($0, "the drive \(drive.identifier)") } }
        for interface in interfaces {
            guard case .descriptor(let number) = interface.peer else { continue }
            result.append((number, "the interface \(interface.identifier)"))
        }
        if let number = vsockListener { result.append((number, "the vsock device")) }
        return MachineConfiguration.conflict(among: result)
    }
}
