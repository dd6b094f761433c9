// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import Machine
import MachineAPI
import Platform

// Takes a machine through what its arguments say, one step after another, and prints what came of each with its time.
//
//     boot CONFIG            makes the machine of a configuration file, whose console must be at the path CONSOLE
//     until TEXT             waits for a line of the console that has the text
//     lines N                waits for N more lines
//     pause, resume
//     snapshot STATE MEMORY  saves it
//     restore STATE MEMORY   makes it from there, paused
//     end                    ends it
//     attach-drive ID PATH
//     torture SEED ROUNDS DISK|-   so many things at random points, with the disk that the machine has

clinux_single_malloc_arena()
ignoreBrokenPipes()

do {
    try Script(Array(CommandLine.arguments.dropFirst())).run()
} catch {
    say("FAILED: \(error)")
    exit(1)
}
