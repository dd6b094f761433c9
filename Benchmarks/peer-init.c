// SPDX-License-Identifier: Apache-2.0
//
// The least that a guest can do: say that it is there, and end. What QEMU boots to in `Benchmarks/start`.
#include <sys/reboot.h>
#include <unistd.h>

int main(void) {
    write(1, "ready\n", 6);
    reboot(RB_AUTOBOOT);
    return 1;
}
