// SPDX-License-Identifier: Apache-2.0

extension [EgressRule] {
    /// Whether a machine with these rules may ask the outside for a name, in small letters. Where names are allowed one
    /// by one, the others are not even asked for: a question can carry as much as a packet. Rules of addresses alone
    /// leave names as they are, as do no rules.
    package func permitAsking(for name: String) -> Bool {
        for rule in self {
            switch rule.target {
            case .everything:
                if rule.port == nil || rule.allows { return rule.allows }
            case .name(let pattern):
                guard pattern.hasPrefix("*.") ? name.hasSuffix(pattern.dropFirst()) : name == pattern else { continue }
                // A name of which one port is denied has others.
                if rule.port == nil || rule.allows { return rule.allows }
            case .v4, .v6: continue
            }
        }
        return !contains { rule in
            if case .name = rule.target { rule.allows } else { false }
        }
    }
}
