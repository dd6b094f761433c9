// SPDX-License-Identifier: Apache-2.0

internal import FabricService
internal import Glibc
internal import Platform

do {
    try FabricStart(arguments: Array(CommandLine.arguments.dropFirst())).run()
} catch {
    try? Descriptor(owning: 2).writeAll(Array("martlet-fabric: \(error)\n".utf8))
    if case .usage = error { exit(2) }
    exit(1)
}
