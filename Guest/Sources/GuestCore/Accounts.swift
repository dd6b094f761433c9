// SPDX-License-Identifier: Apache-2.0

/// Whom a process runs as.
package struct Account: Equatable, Sendable {
    package var user: UInt32 = 0
    package var group: UInt32 = 0
    package var supplementaryGroups: [UInt32] = []
    package var home: [UInt8] = [UInt8(ascii: "/")]

    package init() {}
}

package enum AccountError: Error, Equatable {
    case unknownUser([UInt8])
    case unknownGroup([UInt8])
    case numberOutOfRange([UInt8])

    package var message: [UInt8] {
        switch self {
        case .unknownUser(let name):
            return text("unable to find user ") + name + text(": no matching entries in passwd file")
        case .unknownGroup(let name):
            return text("unable to find group ") + name + text(": no matching entries in group file")
        case .numberOutOfRange(let name):
            return text("user or group ") + name + text(": uids and gids must be in range 0-2147483647")
        }
    }
}

extension Account {
    private static let numberLimit: UInt64 = 0x7fff_ffff

    /// Resolves `user`, `user:group` and `:group`, names or numbers, by the contents of an image's /etc/passwd and
    /// /etc/group, with Docker's rules: the first entry that matches counts, a number needs none, supplementary groups
    /// come with a user's name only while no group is asked for. The order of the entries decides, a name is not
    /// preferred to a number.
    package init(resolving specification: [UInt8], passwd: [UInt8], group: [UInt8]) throws(AccountError) {
        self.init()
        var wantedUser = specification
        var wantedGroup: [UInt8] = []
        if let colon = specification.firstIndex(of: UInt8(ascii: ":")) {
            wantedUser = Array(specification[..<colon])
            wantedGroup = Array(specification[(colon + 1)...])
        }

        let userNumber = try Account.number(wantedUser)
        var name: [UInt8]?
        for fields in Account.entries(passwd) where fields.count >= 6 {
            guard let number = fields[2].decimal(atMost: Account.numberLimit),
                let primary = fields[3].decimal(atMost: Account.numberLimit)
            else { continue }
            let isWanted =
                wantedUser.isEmpty ? number == 0 : fields[0] == wantedUser || userNumber == UInt32(number)
            guard isWanted else { continue }
            name = fields[0]
            self.user = UInt32(number)
            self.group = UInt32(primary)
            if !fields[5].isEmpty { home = fields[5] }
            break
        }
        if name == nil, !wantedUser.isEmpty {
            guard let userNumber else { throw .unknownUser(wantedUser) }
            self.user = userNumber
        }

        if wantedGroup.isEmpty {
            if let name { supplementaryGroups = Account.groups(of: name, in: group) }
        } else {
            self.group = try Account.findGroup(wantedGroup, in: group)
        }
    }

    private static func groups(of name: [UInt8], in group: [UInt8]) -> [UInt32] {
        var found: [UInt32] = []
        for fields in entries(group) where fields.count >= 4 {
            guard let number = fields[2].decimal(atMost: numberLimit) else { continue }
            for member in fields[3].parts(separatedBy: UInt8(ascii: ",")) where member == name {
                // NGROUPS_MAX
                if found.count < 65_536 { found.append(UInt32(number)) }
                break
            }
        }
        return found
    }

    private static func findGroup(_ wanted: [UInt8], in group: [UInt8]) throws(AccountError) -> UInt32 {
        let wantedNumber = try number(wanted)
        for fields in entries(group) where fields.count >= 3 {
            guard let number = fields[2].decimal(atMost: numberLimit) else { continue }
            if fields[0] == wanted || wantedNumber == UInt32(number) { return UInt32(number) }
        }
        guard let wantedNumber else { throw .unknownGroup(wanted) }
        return wantedNumber
    }

    /// A user or group that is a number; nil where it is a name.
    private static func number(_ digits: [UInt8]) throws(AccountError) -> UInt32? {
        guard let number = digits.decimal(atMost: .max) else { return nil }
        guard number <= numberLimit else { throw .numberOutOfRange(digits) }
        return UInt32(number)
    }

    private static func entries(_ file: [UInt8]) -> [[[UInt8]]] {
        var entries: [[[UInt8]]] = []
        for line in file.parts(separatedBy: UInt8(ascii: "\n")) where !line.isEmpty && line[0] != UInt8(ascii: "#") {
            entries.append(line.parts(separatedBy: UInt8(ascii: ":")))
        }
        return entries
    }
}
