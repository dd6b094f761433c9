// SPDX-License-Identifier: Apache-2.0

package import Worker

/// What `martlet restore`, `fork` and `branch` were asked for: the commands of these names say what each member means.
/// Read here where the arguments are plain, as `RunOptions` are.
package struct CloneOptions {
    package enum Verb: String {
        case restore, fork, branch

        fileprivate var operandCount: Int {
            switch self {
            case .restore: 3
            case .fork: 1
            case .branch: 2
            }
        }
    }

    package static let counts = 1...1000

    private let verb: Verb
    /// The container; the snapshot of it, for `restore`; the new one's name, but for `fork`.
    private var operands: [String]
    package var network = NetworkChoice()
    package var memoryServer: String?
    package var count = 1
    package var namePrefix: String?

    package init(_ verb: Verb, _ operands: String...) {
        self.verb = verb
        self.operands = operands
    }

    /// nil for another command, and for what is ArgumentParser's to judge and to complain about.
    package init?(_ arguments: [String]) {
        guard let verb = arguments.first.flatMap(Verb.init) else { return nil }
        self.init(verb)
        var rest = arguments.dropFirst()
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("-") else {
                operands.append(argument)
                continue
            }
            guard argument.hasPrefix("--"), argument.utf8.count > 2 else { return nil }
            let body = argument.dropFirst(2)
            let name = String(body.prefix { $0 != "=" })
            if name == body, take(flag: name) { continue }
            let inlined = name == body ? nil : String(body.dropFirst(name.count + 1))
            guard let value = inlined ?? rest.popFirst(), inlined != nil || !value.hasPrefix("-"), take(name, value)
            else { return nil }
        }
        guard operands.count == verb.operandCount else { return nil }
    }

    private mutating func take(flag name: String) -> Bool {
        verb != .fork && network.take(flag: name)
    }

    private mutating func take(_ name: String, _ value: String) -> Bool {
        switch (verb, name) {
        case (.restore, "memory-server"): memoryServer = value
        case (.fork, "count"):
            guard let number = Int(value), Self.counts.contains(number) else { return false }
            count = number
        case (.fork, "name-prefix"): namePrefix = value
        case (.fork, _): return false
        default: return network.take(name, value)
        }
        return true
    }

    /// Where containers run: here, or in the emulated host.
    /// - Parameter prepare: makes a snapshot ready for a container.
    package func run(_ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot) throws {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        switch verb {
        case .restore: try restore(prepare)
        case .fork:
            let prefix = try namePrefix ?? SnapshotLaunch.machines().find(operands[0]).name
            try ForkLaunch.fork(operands[0], names: (1...count).map { "\(prefix)-\($0)" })
        case .branch: try ForkLaunch.fork(operands[0], names: [operands[1]], network)
        }
    }

    private func restore(_ prepare: (SnapshotManifest, SnapshotStore) throws -> ReadySnapshot) throws {
        let (container, snapshot) = (operands[0], operands[1])
        let store = try SnapshotLaunch.store()
        let manifest = try store.find(snapshot)
        guard manifest.machine.name == container || manifest.machine.id.hasPrefix(container) else {
            throw Failure("\(snapshot) is a snapshot of \(manifest.machine.name), not of \(container)")
        }
        let machine = try SnapshotLaunch.start(
            try prepare(manifest, store), name: operands[2], network: network, isDetached: true, removesItself: false,
            memoryServer: memoryServer)
        throw Failure(silentlyWith: try machine.awaitStart())
    }
}
