// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// One line on a terminal's standard error that says what is being done; nothing where that is no terminal.
package final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private var isShown = false

    package init() {}

    package func show(_ text: String) {
        guard isTerminal else { return }
        writeToStandardError("\r\u{1B}[K\(text)")
        isShown = true
    }

    package func clear() {
        guard isShown else { return }
        writeToStandardError("\r\u{1B}[K")
        isShown = false
    }

    deinit { clear() }
}
