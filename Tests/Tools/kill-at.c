// SPDX-License-Identifier: Apache-2.0
//
// kill-at [-a] [-s SIGNAL] [-n NAME | -p PID [-c]] STEP COMMAND...
//
// Runs a command, and kills a process (SIGKILL, or a signal by its number) as it is about to make its STEPth step: a
// system call that others can see something of, or that something comes of that lasts. Of the calls that put data into
// one file, or pages into others' memory, only the 1st, 2nd, 4th, 8th ... is a step, but for -a. The process is the command itself; or with -n those
// of its descendants that have this name; or with -p one that runs already, of all whose threads the calls count; or
// with -c those that are forked from it meanwhile.
//
// Says "killed at STEP: CALL" or "STEPS steps, status STATUS", once the command and the process that was killed have
// ended. What else was started goes on.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALL(name) {SYS_##name, #name, -1}
// One that puts data into the file whose descriptor is this argument of it.
#define DATA(name, argument) {SYS_##name, #name, argument}
static const struct { int number; const char *name; int file; } calls[] = {
    CALL(mkdir), CALL(mkdirat), CALL(rename), CALL(renameat), CALL(renameat2), CALL(unlink), CALL(unlinkat),
    CALL(rmdir), CALL(link), CALL(linkat), CALL(connect), CALL(bind), CALL(listen), CALL(accept), CALL(accept4),
    CALL(sendmsg), CALL(sendto), CALL(clone), CALL(clone3), CALL(fork), CALL(vfork), CALL(execve), CALL(ftruncate),
    CALL(fsync), CALL(fdatasync), CALL(flock), CALL(kill), CALL(exit_group), DATA(copy_file_range, 2),
    DATA(ioctl, 0), DATA(fallocate, 0), DATA(write, 0), DATA(writev, 0), DATA(pwrite64, 0), DATA(pwritev, 0), DATA(sendfile, 0),
};

// ioctl_userfaultfd(2); musl's headers are without the kernel's.
#define UFFDIO_COPY 0xc028aa03u
#define UFFDIO_ZEROPAGE 0xc020aa04u

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

static const char *wantedName;
static pid_t wantedProcess, command;
static bool wantsForks, wantsAll;
static int deadly = SIGKILL;
static long step, wanted, victim;
static struct { dev_t device; ino_t inode; unsigned long calls; } files[256];

static void die(const char *what) {
    perror(what);
    exit(2);
}

// The process that a thread belongs to; 0 for one that is gone.
static pid_t process_of(pid_t thread) {
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/%d/status", thread);
    FILE *file = fopen(path, "r");
    pid_t process = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Tgid: %d", &process) == 1) break;
    if (file) fclose(file);
    return process;
}

static bool is_of_meant_process(pid_t thread) {
    pid_t process = process_of(thread);
    if (!process) return false;
    if (wantedProcess) return wantsForks ? process != wantedProcess && process != command : process == wantedProcess;
    if (!wantedName) return process == command;
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", process);
    FILE *file = fopen(path, "r");
    if (file && fgets(name, sizeof name, file)) name[strcspn(name, "\n")] = 0;
    if (file) fclose(file);
    return strcmp(name, wantedName) == 0;
}

// What was found out about threads, until one of them is new, is another program or has ended.
static struct { pid_t thread; bool isMeant; } known[64];

static bool is_meant(pid_t thread) {
    size_t place = (size_t)thread % (sizeof known / sizeof *known);
    if (known[place].thread != thread) {
        known[place].isMeant = is_of_meant_process(thread);
        known[place].thread = thread;
    }
    return known[place].isMeant;
}

// Lets a tracee go on: to its next call, where these count.
static void go_on(pid_t thread, int signal) {
    ptrace(!victim && is_meant(thread) ? PTRACE_SYSCALL : PTRACE_CONT, thread, 0, (void *)(long)signal);
}

static bool is_power_of_two(unsigned long number) { return (number & (number - 1)) == 0; }

// Whether this call that puts data into a file is a step. What is no regular file says something each time.
static bool is_told_apart(pid_t thread, int descriptor) {
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", thread, descriptor);
    if (wantsAll || stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return true;
    for (size_t index = 0; index < sizeof files / sizeof *files; index++) {
        if (files[index].calls && (files[index].device != status.st_dev || files[index].inode != status.st_ino)) continue;
        files[index].device = status.st_dev, files[index].inode = status.st_ino;
        // One that is empty is another file, which has the number of one that is gone.
        if (status.st_blocks == 0) files[index].calls = 0;
        unsigned long number = ++files[index].calls;
        return is_power_of_two(number);
    }
    return true;
}

static void at_call(pid_t thread) {
    struct __ptrace_syscall_info info;
    if (victim || ptrace(PTRACE_GET_SYSCALL_INFO, thread, (void *)sizeof info, &info) <= 0) return;
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) return;
    for (size_t index = 0; index < sizeof calls / sizeof *calls; index++) {
        if (info.entry.nr != (unsigned long)calls[index].number) continue;
        if (info.entry.nr == SYS_ioctl) {
            static unsigned long copies;
            bool hasData = info.entry.args[1] == UFFDIO_COPY || info.entry.args[1] == UFFDIO_ZEROPAGE;
            if (!hasData || (!is_power_of_two(++copies) && !wantsAll)) return;
        }
        int file = calls[index].file;
        if (file >= 0 && !is_told_apart(thread, (int)info.entry.args[file])) return;
        if (++step != wanted) return;
        victim = process_of(thread);
        printf("killed at %ld: %s\n", step, calls[index].name);
        kill(victim, deadly);
    }
}

// Takes hold of all threads of a process that runs.
static void seize(pid_t process) {
    bool isNew = true;
    while (isNew) {
        isNew = false;
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/task", process);
        DIR *directory = opendir(path);
        if (!directory) die(path);
        for (struct dirent *entry; (entry = readdir(directory));) {
            pid_t thread = atoi(entry->d_name);
            if (thread <= 0 || ptrace(PTRACE_SEIZE, thread, 0, (void *)OPTIONS) != 0) continue;
            ptrace(PTRACE_INTERRUPT, thread, 0, 0);
            isNew = true;
        }
        closedir(directory);
    }
}

int main(int count, char **arguments) {
    for (int option; (option = getopt(count, arguments, "+as:n:p:c")) != -1;) {
        switch (option) {
        case 'a': wantsAll = true; break;
        case 's': deadly = atoi(optarg); break;
        case 'n': wantedName = optarg; break;
        case 'p': wantedProcess = atoi(optarg); break;
        case 'c': wantsForks = true; break;
        default: return 2;
        }
    }
    if (count - optind < 2) return 2;
    wanted = atol(arguments[optind]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (wantedProcess) seize(wantedProcess);

    int gate[2];
    if (pipe(gate) != 0) die("pipe");
    command = fork();
    if (command == 0) {
        char byte;
        close(gate[1]);
        if (read(gate[0], &byte, 1) < 0) _exit(2);
        close(gate[0]);
        execvp(arguments[optind + 1], arguments + optind + 1);
        die(arguments[optind + 1]);
    }
    close(gate[0]);
    if (!wantedProcess) {
        if (ptrace(PTRACE_SEIZE, command, 0, (void *)OPTIONS) != 0) die("ptrace");
        ptrace(PTRACE_INTERRUPT, command, 0, 0);
    }
    close(gate[1]);

    bool isOver = false, isDead = false;
    int result = 0;
    while (!isOver || (victim && !isDead)) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (!WIFSTOPPED(status) || status >> 16) memset(known, 0, sizeof known);
        if (!WIFSTOPPED(status)) {
            if (thread == command) {
                isOver = true;
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            }
            if (thread == victim) isDead = true;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (signal == (SIGTRAP | 0x80)) {
            at_call(thread);
            go_on(thread, 0);
        } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
            ptrace(PTRACE_LISTEN, thread, 0, 0);
        } else {
            go_on(thread, event ? 0 : signal);
        }
    }
    if (!victim) printf("%ld steps, status %d\n", step, result);
    return 0;
}
