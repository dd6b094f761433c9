// SPDX-License-Identifier: Apache-2.0

internal import Worker

/// What `martlet restore`, `fork` and `branch` were asked for: the commands of these names say what each member means.
/// Read here where the arguments are plain, as `RunOptions` are.
struct CloneOptions {
    enum Verb: String {
        case restore, fork, branch

        fileprivate var operandCount: Int {
            switch self {
            case .restore: 3
            case .fork: 1
            case .branch: 2
            }
        }
    }

    static let counts = 1...1000

    private let verb: Verb
    /// The container; the snapshot of it, for `restore`; the new one's name, but for `fork`.
    private var operands: [String]
    var network = NetworkChoice()
    var memoryServer: String?
    var count = 1
    var namePrefix: String?

    init(_ verb: Verb, _ operands: String...) {
        self.verb = verb
        self.operands = operands
    }

    /// nil for another command, and for what is ArgumentParser's to judge and to complain about.
    init?(_ arguments: [String]) {
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
        guard verb != .fork else { return false }
        switch name {
        case "egress-audit": network.isEgressAudited = true
        case "host-access": network.hasHostAccess = true
        default: return false
        }
        return true
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
    func run() throws {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        switch verb {
        case .restore: try restore()
        case .fork:
            let prefix = try namePrefix ?? SnapshotLaunch.machines().find(operands[0]).name
            try ForkLaunch.fork(operands[0], names: (1...count).map { "\(prefix)-\($0)" })
        case .branch: try ForkLaunch.fork(operands[0], names: [operands[1]], network)
        }
    }

    private func restore() throws {
        let (container, snapshot) = (operands[0], operands[1])
        let manifest = try SnapshotLaunch.store().find(snapshot)
        guard manifest.machine.name == container || manifest.machine.id.hasPrefix(container) else {
            throw Failure("\(snapshot) is a snapshot of \(manifest.machine.name), not of \(container)")
        }
        let machine = try SnapshotLaunch.start(
            manifest, name: operands[2], network: network, isDetached: true, removesItself: false,
            memoryServer: memoryServer)
        throw Failure(silentlyWith: try machine.awaitStart())
    }
}
