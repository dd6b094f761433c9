// SPDX-License-Identifier: Apache-2.0
//
// The init of a guest that writes to `mib=N` MiB of its memory, over and over, and says when it has for the first time.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(void) {
    // The kernel hands what it does not know on to init's environment.
    const char *text = getenv("mib");
    size_t size = (size_t)(text ? atoi(text) : 10) << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned char round = 1;; round++) {
        for (size_t at = 0; at < size; at += 4096) memory[at] = (char)round;
        if (round == 1) {
            puts("ready");
            fflush(stdout);
        }
    }
}
