// SPDX-License-Identifier: Apache-2.0

/// What the kernel's command line says to init. Words of others are left alone; the last of two equal words counts.
package struct BootParameters: Equatable, Sendable {
    package enum Mode: Equatable, Sendable {
        /// A container's machine: the host is reached by vsock.
        case container
        /// The emulated host: what is outside is reached by a virtio-serial port.
        case host
    }
    package var mode = Mode.container
    /// The port of the host's that takes init's connection.
    package var port: UInt32 = 1024

    package init() {}

    package init(commandLine: [UInt8]) {
        let portWord = text("martlet.port=")
        for word in commandLine.parts(separatedBy: UInt8(ascii: " ")) {
            var word = word
            if word.last == UInt8(ascii: "\n") { word.removeLast() }
            if word == text("martlet.mode=host") { mode = .host }
            if word == text("martlet.mode=container") { mode = .container }
            if word.hasPrefix(portWord),
                let number = Array(word[portWord.count...]).decimal(atMost: UInt64(UInt32.max - 1))
            {
                port = UInt32(number)
            }
        }
    }
}
