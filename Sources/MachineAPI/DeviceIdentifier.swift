// SPDX-License-Identifier: Apache-2.0

/// The names of drives and network interfaces, wherever one is read: in a request, in a configuration file or in a saved
/// state, so that what one of them takes the others do.
package enum DeviceIdentifier {
    /// In bytes.
    package static let limit = 255

    /// Whether a text consists of letters, digits and `_`. The empty one does.
    static func hasGoodCharacters(_ text: String) -> Bool {
        text.utf8.allSatisfy { byte in
            byte == 0x5f || byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7a
        }
    }
}
