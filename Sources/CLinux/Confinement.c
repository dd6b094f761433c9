// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "Confinement.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_peer_user(int fd, uid_t *user) {
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return -1;
    *user = peer.uid;
    return 0;
}

pid_t clinux_peer_process(int fd) {
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return -1;
    // One of another namespace has no number here.
    if (peer.pid > 0) return peer.pid;
    errno = ESRCH;
    return -1;
}

int clinux_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }

int clinux_send_buffer(int fd, int bytes) {
    int size = 0;
    socklen_t length = sizeof size;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0 ? size : -1;
}

// --- Landlock ------------------------------------------------------------------------------------------------

int clinux_landlock_version(void) {
    return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

static const uint64_t read_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
static const uint64_t make_access = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                    LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK;

// struct landlock_ruleset_attr as it is since version 6, which older headers do not have.
struct scoped_ruleset {
    uint64_t handled_access_fs, handled_access_net, scoped;
};
static const uint64_t scope_abstract_unix_socket = 1, scope_signal = 2;

int clinux_landlock_ruleset(void) {
    const bool is_scoped = clinux_landlock_version() >= 6;
    // What the first version handles; later ones add accesses that are then not restricted.
    struct scoped_ruleset attributes = {
        .handled_access_fs = read_access | make_access | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                             LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                             LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM,
        .scoped = is_scoped ? scope_abstract_unix_socket | scope_signal : 0};
    return (int)syscall(SYS_landlock_create_ruleset, &attributes,
                        is_scoped ? sizeof(attributes) : sizeof(attributes.handled_access_fs), 0);
}

int clinux_landlock_path(int ruleset, const char *path, int access) {
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return -1;
    struct stat status;
    uint64_t allowed = 0;
    if (access & clinux_landlock_read) allowed |= read_access;
    if (access & clinux_landlock_make) allowed |= make_access;
    if (access & clinux_landlock_remove) allowed |= LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (fstat(fd, &status) == 0 && !S_ISDIR(status.st_mode)) {
        allowed &= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    }
    struct landlock_path_beneath_attr rule = {.allowed_access = allowed, .parent_fd = fd};
    int result = (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int code = errno;
    close(fd);
    errno = code;
    return result;
}

int clinux_landlock_restrict(int ruleset) { return (int)syscall(SYS_landlock_restrict_self, ruleset, 0); }

// --- seccomp -------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
#define MARTLET_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MARTLET_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

enum { call_limit = 128 };

int clinux_seccomp_allow(const int *calls, size_t count) {
    if (count > call_limit) {
        errno = E2BIG;
        return -1;
    }
    struct sock_filter program[32 + 2 * call_limit];
    size_t length = 0;
#define EMIT(...) program[length++] = (struct sock_filter)__VA_ARGS__
    const uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;
    EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARTLET_AUDIT_ARCH, 1, 0));
    EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    // socket(2): by family.
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 7));
    EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 4, 0));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 3, 0));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 2, 0));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 1, 0));
    EMIT(BPF_STMT(BPF_RET | BPF_K, refuse));
    EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    // mmap(2) and mprotect(2): nothing executable.
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 1, 0));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 4));
    EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])));
    EMIT(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1));
    EMIT(BPF_STMT(BPF_RET | BPF_K, refuse));
    EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    for (size_t i = 0; i < count; i++) {
        EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1));
        EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    EMIT(BPF_STMT(BPF_RET | BPF_K, refuse));
#undef EMIT
    struct sock_fprog filter = {.len = (unsigned short)length, .filter = program};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter);
}

size_t clinux_service_calls(const int **calls) {
    static const int list[] = {
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_close, SYS_fstat, SYS_lseek,
        SYS_newfstatat, SYS_statx, SYS_openat, SYS_unlinkat, SYS_renameat2, SYS_fcntl, SYS_flock,
        SYS_ftruncate, SYS_getdents64, SYS_readlinkat, SYS_faccessat, SYS_faccessat2,
        SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk,
        SYS_bind, SYS_listen, SYS_accept4, SYS_connect, SYS_shutdown, SYS_socketpair, SYS_getsockname, SYS_getpeername,
        SYS_getsockopt, SYS_setsockopt, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
        SYS_splice, SYS_tee, SYS_pipe2, SYS_dup, SYS_dup3,
        SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_ppoll,
        SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime, SYS_signalfd4,
        SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
        SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getrandom, SYS_futex,
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall,
        SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_tgkill, SYS_uname, SYS_sysinfo,
        SYS_sched_yield, SYS_sched_getaffinity, SYS_prlimit64, SYS_prctl, SYS_umask, SYS_exit, SYS_exit_group,
#ifdef SYS_unlink
        SYS_unlink, SYS_rename, SYS_access, SYS_readlink, SYS_stat, SYS_lstat, SYS_open, SYS_poll, SYS_epoll_wait,
        SYS_dup2, SYS_pipe, SYS_accept, SYS_time, SYS_getrlimit,
#endif
    };
    *calls = list;
    return sizeof(list) / sizeof(list[0]);
}

size_t clinux_page_server_calls(bool fetches, const int **calls) {
    static const int list[] = {
        SYS_read, SYS_write, SYS_writev, SYS_preadv2, SYS_ioctl, SYS_close, SYS_fcntl, SYS_fstat, SYS_lseek,
        SYS_readlinkat, SYS_unlinkat, SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk,
        SYS_accept4, SYS_recvmsg, SYS_sendmsg, SYS_epoll_ctl, SYS_epoll_pwait, SYS_timerfd_settime,
        SYS_clock_gettime, SYS_getrandom, SYS_futex, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
        SYS_restart_syscall, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_sched_yield, SYS_exit, SYS_exit_group,
#ifdef SYS_unlink
        SYS_unlink, SYS_readlink, SYS_epoll_wait,
#endif
        // Last: for one that keeps what comes from another host.
        SYS_pwrite64,
    };
    *calls = list;
    return sizeof(list) / sizeof(list[0]) - (fetches ? 0 : 1);
}

size_t clinux_page_sender_calls(const int **calls) {
    static const int list[] = {
        SYS_read, SYS_write, SYS_writev, SYS_close, SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex,
        SYS_getrandom, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall, SYS_getpid,
        SYS_gettid, SYS_tgkill, SYS_exit, SYS_exit_group,
    };
    *calls = list;
    return sizeof(list) / sizeof(list[0]);
}
