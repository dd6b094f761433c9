// SPDX-License-Identifier: Apache-2.0
//
// The least that a guest can do: say that it is there, and end (`Benchmarks/start`), or stay (-DWAIT,
// `Benchmarks/monitor`).
#include <sys/reboot.h>
#include <unistd.h>

int main(void) {
    write(1, "ready\n", 6);
#ifdef WAIT
    for (;;) pause();
#endif
    reboot(RB_AUTOBOOT);
    return 1;
}
