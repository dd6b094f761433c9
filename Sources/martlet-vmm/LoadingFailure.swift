// SPDX-License-Identifier: Apache-2.0

internal import Machine
internal import MachineAPI

extension EffectFailure {
    /// Why a snapshot was not loaded: which part of it, then what.
    init(of loading: SnapshotLoading, _ error: MachineError) {
        self.init(Self.text(error, loading))
    }

    private static func text(_ error: MachineError, _ loading: SnapshotLoading) -> String {
        let state = "Failed to get snapshot state from file: "
        let memory = "Failed to load guest memory: Error creating guest memory from file: "
        let server = "Failed to load guest memory: Error creating guest memory from uffd: "
        switch error {
        case .configuration("mem_backend", let problem): return "\(server)\(problem)"
        case .configuration("snapshot_fd", let problem): return "\(state)Failed to open snapshot file: \(problem)"
        case .configuration("backend_fd", let problem): return "\(memory)\(problem)"
        case .system(let purpose, let cause):
            if purpose.hasPrefix("the state file") {
                return "\(state)Failed to open snapshot file: \(Checks.text(cause))"
            }
            if purpose.hasPrefix("the memory file") { return "\(memory)\(Checks.text(cause))" }
            if purpose.hasPrefix("the memory server") {
                return "\(server)Failed to connect to UDS Unix stream: \(Checks.text(cause))"
            }
            return "\(error)"
        case .snapshot("\(loading.state)", let cause):
            return "\(state)Failed to load snapshot state from file: \(cause)"
        case .configuration("network_overrides", let problem):
            return "\(state)Unknown Network Device. (\(problem))"
        case .configuration("vsock_override", let problem):
            return "\(state)Unknown Vsock Device. (\(problem))"
        default: return "\(error)"
        }
    }
}
