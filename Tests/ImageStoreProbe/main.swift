// SPDX-License-Identifier: Apache-2.0
//
// A process for the tests of the store: resolves a source in a store, says what it stored, and can be killed.
//   ImageStoreProbe STORE SOURCE

import Glibc
import ImageStore
import OCI

/// Written at once: a killed process loses nothing that it said.
@Sendable func say(_ text: String) {
    let bytes = Array("\(text)\n".utf8)
    write(1, bytes, bytes.count)
}

let arguments = CommandLine.arguments
guard arguments.count == 3 else {
    say("usage: ImageStoreProbe STORE SOURCE")
    exit(2)
}
var options = RegistryOptions(environment: [])
options.platform = ImagePlatform(operatingSystem: "linux", architecture: "amd64")
// It is killed where it waits, however late that comes.
options.idleTimeoutInSeconds = 3600
let store = ImageStore(root: arguments[1], registry: options)
do {
    let image = try await store.resolve(try ImageSource(arguments[2])) { event in
        if case .layer(_, .stored) = event { say("stored") }
    }
    say("ready \(image.id) \(image.segments.count)")
} catch {
    say("error \(error)")
    exit(1)
}
