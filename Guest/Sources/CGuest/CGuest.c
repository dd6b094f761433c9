// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE
#include "CGuest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long result(long value) { return value == -1 ? -(long)errno : value; }

/// Calls again what a signal interrupted.
#define RETRY(call)                                    \
    ({                                                 \
        long value_;                                   \
        do value_ = (call);                            \
        while (value_ == -1 && errno == EINTR);        \
        result(value_);                                \
    })

#define PATH(pointer) ((const char *)(pointer))

// MARK: Descriptors

long guest_open(const uint8_t *path, int how, uint32_t mode) {
    return RETRY(open(PATH(path), how | O_CLOEXEC | O_NOCTTY, (mode_t)mode));
}
long guest_close(int descriptor) { return result(close(descriptor)); }
long guest_read(int descriptor, void *bytes, size_t count) { return RETRY(read(descriptor, bytes, count)); }
long guest_write(int descriptor, const void *bytes, size_t count) { return RETRY(write(descriptor, bytes, count)); }
long guest_duplicate(int descriptor, int target, int is_kept) {
    if (descriptor == target) return result(fcntl(descriptor, F_SETFD, is_kept ? 0 : FD_CLOEXEC));
    return RETRY(dup3(descriptor, target, is_kept ? 0 : O_CLOEXEC));
}
long guest_set_nonblocking(int descriptor, int on) {
    int flags = fcntl(descriptor, F_GETFL);
    if (flags == -1) return -(long)errno;
    return result(fcntl(descriptor, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}
long guest_pipe(int32_t *ends) { return result(pipe2(ends, O_CLOEXEC)); }
long guest_pending(int descriptor) {
    int count = 0;
    return ioctl(descriptor, FIONREAD, &count) == -1 ? -(long)errno : count;
}
long guest_change_owner(int descriptor, uint32_t user, uint32_t group) { return result(fchown(descriptor, user, group)); }
long guest_is_open(int descriptor) { return result(fcntl(descriptor, F_GETFD)); }
long guest_create_flags(void) { return O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK; }
long guest_nonblocking_flag(void) { return O_NONBLOCK; }

// MARK: Events

_Static_assert(EPOLLIN == 0x001 && EPOLLOUT == 0x004 && EPOLLERR == 0x008 && EPOLLHUP == 0x010, "epoll's bits");
_Static_assert(EPOLLRDHUP == 0x2000 && EPOLLET == 1u << 31, "epoll's bits");

long guest_epoll(void) { return result(epoll_create1(EPOLL_CLOEXEC)); }
long guest_epoll_add(int epoll, int descriptor, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data.u64 = token};
    return result(epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event));
}
long guest_epoll_remove(int epoll, int descriptor) {
    struct epoll_event event = {0};
    return result(epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, &event));
}
long guest_epoll_wait(int epoll, struct guest_event *events, int capacity, int milliseconds) {
    // The kernel's structure is packed on some architectures, the header's is not.
    struct epoll_event taken[64];
    if (capacity > 64) capacity = 64;
    long count = result(epoll_wait(epoll, taken, capacity, milliseconds));
    for (long index = 0; index < count; index++) {
        events[index].events = taken[index].events;
        events[index].token = taken[index].data.u64;
    }
    return count == -EINTR ? 0 : count;
}
long guest_child_events(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == -1) return -(long)errno;
    signal(SIGPIPE, SIG_IGN);
    return result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}
void guest_clear_child_events(int descriptor) {
    struct signalfd_siginfo information[4];
    while (read(descriptor, information, sizeof information) > 0) {}
}

// MARK: Processes

_Static_assert(CLONE_NEWNS == 0x00020000 && CLONE_NEWIPC == 0x08000000 && CLONE_NEWPID == 0x20000000 && CLONE_NEWCGROUP == 0x02000000 && CLONE_FS == 0x200,
               "namespaces");

long guest_fork(uint64_t namespaces, int group) {
    // The program has one thread, so the C library's own fork has nothing to add.
    if (group < 0) return result(syscall(SYS_clone, namespaces | SIGCHLD, 0, 0, 0, 0));
    // struct clone_args of linux/sched.h. To be born in a group costs nothing; to be moved costs a grace period.
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } arguments = {
        .flags = namespaces | 0x200000000 /* CLONE_INTO_CGROUP */, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group};
    return result(syscall(435 /* clone3 */, &arguments, sizeof arguments));
}
long guest_leave(uint64_t namespaces) { return result(unshare((int)namespaces)); }
long guest_enter(int descriptor, uint64_t namespaces) { return result(setns(descriptor, (int)namespaces)); }
void guest_reset_signals(void) {
    signal(SIGPIPE, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
}
long guest_reap(int32_t *status) { return RETRY(waitpid(-1, status, WNOHANG)); }
long guest_reap_blocking(int32_t *status) { return RETRY(waitpid(-1, status, 0)); }
long guest_reap_within(int32_t process, int milliseconds, int32_t *status) {
    int descriptor = (int)syscall(434 /* pidfd_open */, process, 0);
    if (descriptor == -1) return -(long)errno;
    struct pollfd entry = {.fd = descriptor, .events = POLLIN};
    long ready = RETRY(poll(&entry, 1, milliseconds));
    close(descriptor);
    if (ready <= 0) return ready;
    return RETRY(waitpid(process, status, 0));
}
long guest_kill(int32_t process, int signal) { return result(kill(process, signal)); }
long guest_execute(const uint8_t *path, uint8_t *const *arguments, uint8_t *const *environment) {
    return result(execve(PATH(path), (char *const *)arguments, (char *const *)environment));
}
long guest_new_session(void) { return result(setsid()); }
long guest_process_id(void) { return getpid(); }
void guest_set_mask(uint32_t mask) { umask((mode_t)mask); }
long guest_set_groups(const uint32_t *groups, size_t count) { return result(setgroups(count, (const gid_t *)groups)); }
long guest_set_group(uint32_t group) { return result(setgid(group)); }
long guest_set_user(uint32_t user) { return result(setuid(user)); }
long guest_adopt_orphans(void) { return result(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)); }
long guest_process_descriptor(int32_t process) { return result(syscall(434 /* pidfd_open */, process, 0)); }
void guest_close_from(int first) { syscall(436 /* close_range */, (unsigned)first, ~0u, 0u); }
void guest_exit(int status) { _exit(status); }

// MARK: Files

long guest_change_directory(const uint8_t *path) { return result(chdir(PATH(path))); }
long guest_change_root(const uint8_t *path) { return result(chroot(PATH(path))); }
long guest_make_directory(const uint8_t *path, uint32_t mode) { return result(mkdir(PATH(path), (mode_t)mode)); }
long guest_make_device(const uint8_t *path, uint32_t mode, uint32_t major, uint32_t minor) {
    return result(mknod(PATH(path), (mode_t)(S_IFCHR | mode), makedev(major, minor)));
}
long guest_make_link(const uint8_t *target, const uint8_t *path) { return result(symlink(PATH(target), PATH(path))); }
long guest_remove(const uint8_t *path) { return result(unlink(PATH(path))); }
long guest_access_to_execute(const uint8_t *path) { return result(access(PATH(path), X_OK)); }
long guest_mode(const uint8_t *path, uint32_t *mode) {
    struct stat status;
    if (stat(PATH(path), &status) == -1) return -(long)errno;
    *mode = status.st_mode;
    return 0;
}
long guest_mount(const uint8_t *source, const uint8_t *target, const uint8_t *type, uint64_t flags,
                 const uint8_t *options) {
    return result(mount(PATH(source), PATH(target), PATH(type), flags, PATH(options)));
}
long guest_unmount(const uint8_t *target, int flags) { return result(umount2(PATH(target), flags)); }
long guest_list(const uint8_t *path, uint8_t *names, size_t capacity) {
    DIR *directory = opendir(PATH(path));
    if (!directory) return -(long)errno;
    size_t used = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        size_t length = strlen(entry->d_name) + 1;
        if (length > capacity - used) break;
        memcpy(names + used, entry->d_name, length);
        used += length;
    }
    closedir(directory);
    return (long)used;
}

// MARK: The machine

uint64_t guest_monotonic_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}
long guest_set_clock(uint64_t nanoseconds) {
    struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
    return result(clock_settime(CLOCK_REALTIME, &time));
}
long guest_add_entropy(const uint8_t *bytes, size_t count) {
    // struct rand_pool_info of linux/random.h, with room for its flexible array.
    struct {
        int bits;
        int size;
        uint8_t bytes[512];
    } pool;
    if (count > sizeof pool.bytes) count = sizeof pool.bytes;
    pool.bits = (int)count * 8;
    pool.size = (int)count;
    memcpy(pool.bytes, bytes, count);
    int random = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (random == -1) return -(long)errno;
    long outcome = result(ioctl(random, _IOW('R', 0x03, int[2]) /* RNDADDENTROPY */, &pool));
    if (outcome >= 0) outcome = result(ioctl(random, _IO('R', 0x07) /* RNDRESEEDCRNG */));
    close(random);
    explicit_bzero(&pool, sizeof pool);
    return outcome;
}
long guest_random(uint8_t *bytes, size_t count) { return RETRY(syscall(SYS_getrandom, bytes, count, 0)); }
long guest_set_hostname(const uint8_t *name, size_t length) { return result(sethostname(PATH(name), length)); }
long guest_loopback_up(void) {
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control == -1) return -(long)errno;
    struct ifreq request = {.ifr_name = "lo"};
    long outcome = result(ioctl(control, SIOCGIFFLAGS, &request));
    if (outcome >= 0) {
        request.ifr_flags |= IFF_UP;
        outcome = result(ioctl(control, SIOCSIFFLAGS, &request));
    }
    close(control);
    return outcome;
}
// linux/netlink.h, which musl's headers come without.
struct netlink_head {
    uint32_t length;
    uint16_t type;
    uint16_t flags;
    uint32_t sequence;
    uint32_t port;
};
enum { netlink_error = 2 };

long guest_route_requests(const uint8_t *requests, size_t count, uint32_t number) {
    int control = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0 /* NETLINK_ROUTE */);
    if (control == -1) return -(long)errno;
    // The kernel has answered each request when send returns.
    long outcome = RETRY(send(control, requests, count, 0));
    while (outcome >= 0 && number > 0) {
        _Alignas(struct netlink_head) uint8_t space[8192];
        outcome = RETRY(recv(control, space, sizeof space, 0));
        size_t rest = outcome > 0 ? (size_t)outcome : 0;
        for (uint8_t *place = space; rest >= sizeof(struct netlink_head) + sizeof(int32_t);) {
            struct netlink_head *head = (struct netlink_head *)place;
            size_t length = ((size_t)head->length + 3) & ~(size_t)3;
            if (head->length < sizeof *head + sizeof(int32_t) || length > rest) break;
            // An acknowledgement is an error of 0; the first other one is what went wrong.
            int32_t error = *(int32_t *)(head + 1);
            if (head->type == netlink_error && number > 0) number--;
            if (head->type == netlink_error && error != 0 && outcome >= 0) outcome = error;
            place += length;
            rest -= length;
        }
    }
    close(control);
    return outcome < 0 ? outcome : 0;
}

// linux/rtnetlink.h and linux/if_addr.h
struct address_message {
    struct netlink_head head;
    uint8_t family, prefix_length, flags, scope;
    uint32_t interface;
};

/// Asks for all addresses and removes those of an interface; the number of those that it found.
static long remove_found_addresses(int asking, int removing, uint32_t interface) {
    struct address_message request = {
        .head = {.length = sizeof request, .type = 22 /* RTM_GETADDR */, .flags = 0x301 /* REQUEST | DUMP */}};
    if (send(asking, &request, sizeof request, 0) == -1) return -(long)errno;
    long count = 0;
    for (;;) {
        _Alignas(8) uint8_t bytes[16384];
        long length = RETRY(recv(asking, bytes, sizeof bytes, 0));
        if (length <= 0) return length < 0 ? length : count;
        for (long at = 0; at + (long)sizeof(struct netlink_head) <= length;) {
            struct netlink_head *head = (void *)(bytes + at);
            if (head->length < sizeof *head || at + (long)head->length > length) return -EIO;
            if (head->type == 3 /* NLMSG_DONE */) return count;
            if (head->type == netlink_error) return -EIO;
            const struct address_message *found = (const void *)head;
            if (head->type == 20 /* RTM_NEWADDR */ && head->length >= sizeof *found && found->interface == interface) {
                // What says that an address is there says which one is to go.
                head->type = 21 /* RTM_DELADDR */;
                head->flags = 1 /* REQUEST */;
                if (send(removing, head, head->length, 0) == -1) return -(long)errno;
                count++;
            }
            at += (head->length + 3) & ~3u;
        }
    }
}

long guest_remove_addresses(uint32_t interface) {
    int asking = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0 /* NETLINK_ROUTE */);
    if (asking == -1) return -(long)errno;
    int removing = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (removing == -1) {
        long outcome = -(long)errno;
        close(asking);
        return outcome;
    }
    // A list that is made while it gets shorter may leave one out, and a secondary address may become a primary one.
    long count = 1;
    for (int turn = 0; turn < 64 && count > 0; turn++) count = remove_found_addresses(asking, removing, interface);
    close(asking);
    close(removing);
    return count > 0 ? -EBUSY : count;
}

// linux/inet_diag.h, which musl's headers come without.
struct socket_name {
    uint16_t source_port, target_port;
    uint32_t source[4], target[4];
    uint32_t interface, cookie[2];
};
struct diagnosis_request {
    struct netlink_head head;
    uint8_t family, protocol, extensions, padding;
    uint32_t states;
    struct socket_name name;
};
struct diagnosis {
    uint8_t family, state, timer, retransmissions;
    struct socket_name name;
    uint32_t expires, receive_queue, send_queue, user, inode;
};
_Static_assert(sizeof(struct diagnosis_request) == 72 && sizeof(struct diagnosis) == 72, "inet_diag");

static int is_within_machine(const struct diagnosis *found) {
    const uint8_t *target = (const uint8_t *)found->name.target;
    if (found->family == AF_INET) return target[0] == 127;
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(target, mapped, sizeof mapped) == 0) return target[12] == 127;
    static const uint8_t own[16] = {[15] = 1};
    return memcmp(target, own, sizeof own) == 0;
}

/// An error that stands behind a message's head, 0 or negative.
static long told_error(const uint8_t *message, size_t length) {
    int32_t error;
    if (length < sizeof(struct netlink_head) + sizeof error) return -EIO;
    memcpy(&error, message + sizeof(struct netlink_head), sizeof error);
    return error;
}

/// What the kernel says to a request that is to be acknowledged: 0, or an error, negative.
static long acknowledgement(int netlink) {
    // Answered before send(2) returned.
    _Alignas(8) uint8_t bytes[4096];
    long length = RETRY(recv(netlink, bytes, sizeof bytes, MSG_DONTWAIT));
    if (length < 0) return length;
    const struct netlink_head *head = (const void *)bytes;
    if (length < (long)sizeof *head || head->type != 2 /* NLMSG_ERROR */) return -EIO;
    return told_error(bytes, (size_t)length);
}

/// Asks for all connections of a family and destroys what is to be; one pass, since what is destroyed is not listed.
static long reset_family(int diagnostics, int destroyer, uint8_t family) {
    struct diagnosis_request request = {
        .head = {.length = sizeof request, .type = 20 /* SOCK_DIAG_BY_FAMILY */, .flags = 0x301 /* REQUEST | DUMP */},
        .family = family,
        .protocol = IPPROTO_TCP,
        // All but LISTEN (10), CLOSE (7) and TIME_WAIT (6).
        .states = 0xfff & ~(1u << 10 | 1u << 7 | 1u << 6 | 1u)};
    if (send(diagnostics, &request, sizeof request, 0) == -1) return -(long)errno;
    long count = 0;
    for (;;) {
        _Alignas(8) uint8_t bytes[16384];
        long length = RETRY(recv(diagnostics, bytes, sizeof bytes, 0));
        if (length <= 0) return length < 0 ? length : count;
        for (long at = 0; at + (long)sizeof(struct netlink_head) <= length;) {
            const struct netlink_head *head = (const void *)(bytes + at);
            if (head->length < sizeof *head || at + (long)head->length > length) return -EIO;
            if (head->type == 3 /* NLMSG_DONE */ || head->type == 2 /* NLMSG_ERROR */) {
                long error = told_error(bytes + at, head->length);
                return error < 0 ? error : count;
            }
            if (head->length >= sizeof *head + sizeof(struct diagnosis)) {
                const struct diagnosis *found = (const void *)(head + 1);
                if (!is_within_machine(found)) {
                    struct diagnosis_request end = {
                        .head = {.length = sizeof end, .type = 21 /* SOCK_DESTROY */, .flags = 5 /* REQUEST | ACK */},
                        .family = found->family,
                        .protocol = IPPROTO_TCP,
                        .states = 1u << found->state,
                        .name = found->name};
                    if (send(destroyer, &end, sizeof end, 0) == -1) return -(long)errno;
                    // A kernel that cannot do it says so here. One that has ended by itself is no more there.
                    long outcome = acknowledgement(destroyer);
                    if (outcome < 0 && outcome != -ENOENT) return outcome;
                    if (outcome == 0) count++;
                }
            }
            at += (head->length + 3) & ~3u;
        }
    }
}

long guest_reset_connections(void) {
    int diagnostics = socket(16 /* AF_NETLINK */, SOCK_RAW | SOCK_CLOEXEC, 4 /* NETLINK_SOCK_DIAG */);
    if (diagnostics == -1) return -(long)errno;
    int destroyer = socket(16, SOCK_RAW | SOCK_CLOEXEC, 4);
    if (destroyer == -1) {
        close(diagnostics);
        return -(long)errno;
    }
    long count = reset_family(diagnostics, destroyer, AF_INET);
    if (count >= 0) {
        long more = reset_family(diagnostics, destroyer, AF_INET6);
        // A kernel that knows no such family has none to reset.
        count = more >= 0 ? count + more : more == -ENOENT ? count : more;
    }
    close(diagnostics);
    close(destroyer);
    return count;
}
void guest_sync(void) { sync(); }
long guest_power_off(void) { return result(reboot(RB_POWER_OFF)); }
long guest_reboot(void) { return result(reboot(RB_AUTOBOOT)); }

// MARK: Transports

// linux/vm_sockets.h and linux/netlink.h are not musl's to give.
struct vsock_address {
    sa_family_t family;
    uint16_t reserved;
    uint32_t port;
    uint32_t context;
    uint8_t zero[4];
};
struct netlink_address {
    sa_family_t family;
    uint16_t padding;
    uint32_t process;
    uint32_t groups;
};

long guest_vsock_connect(uint32_t context, uint32_t port) {
    int stream = socket(40 /* AF_VSOCK */, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (stream == -1) return -(long)errno;
    // SO_VM_SOCKETS_CONNECT_TIMEOUT. The kernel's own, 2 s, can be over before the machine's host has been given a processor
    // once; how long a machine may take is the host's to say.
    struct timeval patience = {.tv_sec = 3600};
    setsockopt(stream, 40, 6, &patience, sizeof patience);
    struct vsock_address address = {.family = 40, .port = port, .context = context};
    if (connect(stream, (struct sockaddr *)&address, sizeof address) == -1 && errno != EINPROGRESS) {
        long outcome = -(long)errno;
        close(stream);
        return outcome;
    }
    return stream;
}
long guest_socket_outcome(int descriptor) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) == -1) return -(long)errno;
    return -(long)error;
}
long guest_device_events(void) {
    int events = socket(16 /* AF_NETLINK */, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 15 /* NETLINK_KOBJECT_UEVENT */);
    if (events == -1) return -(long)errno;
    struct netlink_address address = {.family = 16, .groups = 1};
    if (bind(events, (struct sockaddr *)&address, sizeof address) == -1) {
        long outcome = -(long)errno;
        close(events);
        return outcome;
    }
    return events;
}

const char *guest_error_text(int error) { return strerror(error); }

#ifndef __GLIBC__
/// What Swift seeds its hash tables with, which musl lacks. Nothing here hashes keys that an attacker chooses, and
/// getrandom(2) without waiting may give nothing early in a boot, which is no reason to stop one.
void arc4random_buf(void *bytes, size_t count) {
    if (syscall(SYS_getrandom, bytes, count, 1 /* GRND_NONBLOCK */) != (long)count) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        uint8_t *out = bytes;
        for (size_t index = 0; index < count; index++) out[index] = (uint8_t)((uint64_t)time.tv_nsec >> (index % 4 * 8));
    }
}
#endif
