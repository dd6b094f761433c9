// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Platform
internal import Worker

/// Completes names of containers.
let machineNames = CompletionKind.custom { _, _, prefix in
    guard let store = try? MachineStore.ofUser(lookUp: { environmentVariable($0) }) else { return [] }
    return store.list().map(\.name).filter { $0.hasPrefix(prefix) }
}
