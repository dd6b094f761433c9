// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import PageServer
internal import Platform

do {
    try PageServerStart(arguments: Array(CommandLine.arguments.dropFirst())).run()
} catch {
    try? Descriptor(owning: 2).writeAll(Array("martlet-pages: \(error)\n".utf8))
    if case .usage = error { exit(2) }
    exit(1)
}
