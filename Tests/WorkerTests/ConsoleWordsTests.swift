// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Worker

@Suite struct ConsoleWordsTests {
    private func text(_ console: String) -> String { ConsoleWords(Array(console.utf8)).text }

    @Test func whatWasSaidLast() {
        #expect(text("") == "")
        #expect(text("[ 1.0] reboot: Power down\r\n") == "")
        #expect(text("one\r\ntwo\r\n[ 1.0] reboot: Power down\r\n") == "; the last that its console says is: two")
        #expect(
            text("martlet-init: no disk\nafter that\n") == "; the last that its console says is: martlet-init: no disk")
        // A guest's bytes do nothing to a terminal, and are no more than a line.
        #expect(!text("\u{1B}[2J\n").contains("\u{1B}"))
        #expect(text(String(repeating: "x", count: 5_000)).utf8.count < 300)
    }

    @Test func whyAKernelPanicked() {
        let panic = "[ 1.4] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"
        #expect(text("quiet\n\(panic)\n[ 1.4] reboot: Rebooting\n") == ": \(panic)")
        #expect(
            text("[ 1.3] BUG: unable to handle page fault for address: 8\n[ 1.3] #PF: supervisor read\n\(panic)\n")
                == ": \(panic); before that: [ 1.3] BUG: unable to handle page fault for address: 8")
        #expect(text("martlet-init: cannot mount\n\(panic)\n") == ": \(panic); before that: martlet-init: cannot mount")
    }
}
