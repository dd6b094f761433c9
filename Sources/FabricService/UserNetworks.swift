// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import FabricAPI
internal import Packet
internal import Platform
internal import Wire

/// The user's other networks, as far as names go: the directory of definitions, in which each is a file that is there whole
/// or not at all, as it is now.
final class UserNetworks {
    /// How many are known. A user who has more is told so.
    static let limit = 1024

    private let directory: String
    /// The network's own file.
    private let own: String
    private let place: DirectoryWatch.Place?
    /// By their files' names.
    private var networks: [String: ForeignNames.Network] = [:]
    /// There are some that are not known; and that this was said.
    private var isFull = false
    private var saysFull = false
    private(set) var names = ForeignNames()

    /// - Parameters:
    ///   - directory: where the definitions are.
    ///   - name: of the network whose machines ask.
    ///   - watch: nil where the directory is read once.
    init(directory: String, besides name: String, watch: DirectoryWatch?) {
        self.directory = directory
        own = name + Self.suffix
        do throws(SystemError) {
            place = try watch?.add(directory)
        } catch {
            place = nil
            say("networks that are made or removed from now on are not noticed: \(error)")
        }
        readAll()
    }

    private static let suffix = ".json"

    /// Reads what has changed.
    func reload(after changes: DirectoryWatch.Changes) {
        guard let place else { return }
        let files = changes.names(in: place).filter(isNetwork)
        // One that has gone makes room for one that nobody knows.
        if changes.isPartial || isFull && !files.isEmpty { return readAll() }
        guard !files.isEmpty else { return }
        for file in files { read(file) }
        names = ForeignNames(networks.values)
    }

    private func readAll() {
        networks = [:]
        isFull = false
        do throws(SystemError) {
            for file in try Files.list(directory).filter(isNetwork).sorted() { read(file) }
        } catch {
            say("the other networks of this user are not known, and their names are asked outside: \(error)")
        }
        names = ForeignNames(networks.values)
    }

    /// Others of the directory are locks, drafts, and the network's own.
    private func isNetwork(_ file: String) -> Bool {
        file != own && file.hasSuffix(Self.suffix) && NetworkDefinition.isName(String(file.dropLast(Self.suffix.count)))
    }

    private func read(_ file: String) {
        let path = "\(directory)/\(file)"
        guard Files.exists(path), let domain = DNSName(String(file.dropLast(Self.suffix.count))) else {
            networks[file] = nil
            return
        }
        guard networks[file] != nil || networks.count < Self.limit else {
            if !saysFull { say("of this user's other networks, the names of \(Self.limit) are known and no more") }
            (isFull, saysFull) = (true, true)
            return
        }
        // One that cannot be understood is a network all the same, whose name may not be asked for outside.
        let definition = try? NetworkDefinition(JSON(parsing: Files.read(path, limit: 65_536)))
        networks[file] = ForeignNames.Network(
            domain: domain, subnet: definition?.subnet, prefix: definition?.subnet6)
    }
}
