// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "Namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// sys/mount.h and linux/mount.h do not agree with each other in all versions of glibc.
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
enum { detach = 2 };

// --- capabilities --------------------------------------------------------------------------------------------

const uint64_t CLINUX_CAP_SYS_ADMIN = 1ull << CAP_SYS_ADMIN, CLINUX_CAP_NET_BIND_SERVICE = 1ull << CAP_NET_BIND_SERVICE,
               CLINUX_CAP_DAC_OVERRIDE = 1ull << CAP_DAC_OVERRIDE;

uint64_t clinux_capabilities(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capget, &header, data) != 0) return 0;
    return data[0].effective | (uint64_t)data[1].effective << 32;
}

int clinux_keep_capabilities(uint64_t kept) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capget, &header, data) != 0) return -1;
    for (int i = 0; i < 2; i++) {
        uint32_t mask = (uint32_t)(kept >> 32 * i);
        data[i].effective &= mask;
        data[i].permitted &= mask;
        data[i].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, data);
}

// --- namespaces ----------------------------------------------------------------------------------------------

static int write_whole(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t count = write(fd, text, strlen(text));
    int code = errno;
    close(fd);
    errno = code;
    return count == (ssize_t)strlen(text) ? 0 : -1;
}

int clinux_own_namespaces(int user) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (user ? CLONE_NEWUSER : 0)) != 0) return -1;
    if (user) {
        char map[64];
        // Without this the group could not be mapped: giving up groups may give access (user_namespaces(7)).
        if (write_whole("/proc/self/setgroups", "deny") != 0) return -1;
        snprintf(map, sizeof map, "%u %u 1\n", uid, uid);
        if (write_whole("/proc/self/uid_map", map) != 0) return -1;
        snprintf(map, sizeof map, "%u %u 1\n", gid, gid);
        if (write_whole("/proc/self/gid_map", map) != 0) return -1;
    }
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

int clinux_try_namespaces(int user) {
    pid_t child = fork();
    if (child < 0) return errno;
    if (child == 0) _exit(clinux_own_namespaces(user) == 0 ? 0 : errno > 0 && errno < 256 ? errno : EPERM);
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return errno;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

// --- a root directory ----------------------------------------------------------------------------------------

int clinux_mount_empty(const char *target) {
    return mount("martlet", target, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755");
}

static int restrict_mount(const char *path, unsigned flags, uint64_t attributes) {
    struct mount_attr change = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | attributes};
    // Kernels before 5.12 do not have the call; what it would forbid, Landlock does.
    return syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &change, sizeof change) == 0 || errno == ENOSYS ? 0 : -1;
}

int clinux_mount_readable(const char *source, const char *target) {
    // In a user namespace what is mounted below comes along or nothing does.
    if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) != 0) return -1;
    return restrict_mount(target, AT_RECURSIVE, MOUNT_ATTR_RDONLY);
}

int clinux_mount_writable(const char *source, const char *target) {
    if (mount(source, target, NULL, MS_BIND, NULL) != 0) return -1;
    return restrict_mount(target, 0, 0);
}

int clinux_become_root(void) {
    if (restrict_mount(".", 0, MOUNT_ATTR_RDONLY) != 0) return -1;
    // The old root is put on top of the new one, and goes (pivot_root(2)). A root file system that was unpacked by the
    // kernel itself cannot be put anywhere: then it is covered.
    if (syscall(SYS_pivot_root, ".", ".") == 0) {
        if (umount2(".", detach) != 0) return -1;
    } else if (mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0) {
        return -1;
    }
    return chdir("/");
}

void clinux_unmount(const char *target) { umount2(target, detach); }
