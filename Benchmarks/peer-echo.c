// SPDX-License-Identifier: Apache-2.0
//
// The init of a peer's guest, which does nothing but answer: each line that comes on the console starts a process, and the
// line comes back once that has ended.
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "true") == 0) return 0;
    struct termios settings;
    tcgetattr(0, &settings);
    cfmakeraw(&settings);
    tcsetattr(0, TCSANOW, &settings);
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        pid_t child = fork();
        if (child == 0) {
            execl("/init", "/init", "true", NULL);
            _exit(1);
        }
        waitpid(child, NULL, 0);
        fputs(line, stdout);
        fflush(stdout);
    }
    for (;;) pause();
}
