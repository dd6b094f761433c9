// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import ImageStore
internal import Launch
internal import Platform
internal import Synchronization
internal import Worker

/// Shows on a terminal how an image is fetched, a line a layer; shows nothing where standard error is none.
final class PullDisplay: Sendable {
    private struct State {
        var title = ""
        var layers: [(summary: LayerSummary, state: LayerState)] = []
        /// Lines on the screen.
        var height = 0
        var drawnAt: UInt64 = 0
        var isMerging = false
    }

    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let state = Mutex(State())

    func take(_ progress: ImageProgress) {
        guard isTerminal else { return }
        state.withLock { state in
            var isStep = true
            switch progress {
            case .looking(let source): state.title = "looking for \(source)"
            case .layers(let layers):
                state.layers = layers.map { ($0, .fetching(0)) }
                state.title = "\(layers.count) layer\(layers.count == 1 ? "" : "s")"
            case .layer(let index, let change):
                guard state.layers.indices.contains(index) else { return }
                state.layers[index].state = change
                if case .fetching = change { isStep = false }
            case .merging: state.isMerging = true
            case .ready: break
            }
            // Ten pictures a second are enough for numbers that run.
            let now = monotonicNanoseconds()
            guard isStep || now - state.drawnAt > 100_000_000 else { return }
            state.drawnAt = now
            Self.draw(&state)
        }
    }

    /// Takes the lines off the screen.
    func finish() {
        guard isTerminal else { return }
        state.withLock { state in
            guard state.height > 0 else { return }
            writeToStandardError("\u{1B}[\(state.height)A\r\u{1B}[J")
            state.height = 0
        }
    }

    private static func draw(_ state: inout State) {
        var lines = [state.title + (state.isMerging ? ", joining them" : "")]
        for (summary, layer) in state.layers { lines.append("  \(summary.name)  \(text(layer, of: summary.size))") }
        // More lines than a screen has cannot be taken back; the last ones move most.
        if lines.count > 20 { lines = [lines[0]] + lines.suffix(19) }
        var output = state.height > 0 ? "\u{1B}[\(state.height)A\r" : ""
        for line in lines { output += "\u{1B}[K\(line)\n" }
        output += "\u{1B}[J"
        state.height = lines.count
        writeToStandardError(output)
    }

    private static func text(_ state: LayerState, of size: Int64) -> String {
        let total = Quantities.describe(bytes: UInt64(max(0, size)))
        switch state {
        case .present: return "is here"
        case .waiting: return "another command fetches it"
        case .fetching(let count): return "\(Quantities.describe(bytes: UInt64(max(0, count)))) of \(total)"
        case .converting: return "converting"
        case .stored: return "done (\(total))"
        }
    }
}
