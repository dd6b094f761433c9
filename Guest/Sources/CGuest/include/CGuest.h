// SPDX-License-Identifier: Apache-2.0
//
// The system calls that martlet-init uses, in a form that Embedded Swift can call without a C library's headers: plain
// integers and pointers, errors as negative numbers. Paths end with a NUL byte. Every descriptor is made close-on-exec.

#pragma once

#include <stddef.h>
#include <stdint.h>

// Swift's clang knows whether a pointer may be null; musl's gcc need not.
#ifdef __clang__
#pragma clang assume_nonnull begin
#define GUEST_NULLABLE _Nullable
#define GUEST_NONNULL _Nonnull
#else
#define GUEST_NULLABLE
#define GUEST_NONNULL
#endif

// MARK: Descriptors

/// `how` is the flags of open(2) without O_CLOEXEC, which is always added.
long guest_open(const uint8_t *path, int how, uint32_t mode);
long guest_close(int descriptor);
long guest_read(int descriptor, void *GUEST_NULLABLE bytes, size_t count);
long guest_write(int descriptor, const void *GUEST_NULLABLE bytes, size_t count);
/// Makes `target` mean what `descriptor` does; the program that is executed next inherits it if `is_kept`.
long guest_duplicate(int descriptor, int target, int is_kept);
long guest_set_nonblocking(int descriptor, int on);
long guest_pipe(int32_t *GUEST_NONNULL ends);
/// How many bytes can be read from a pipe at once.
long guest_pending(int descriptor);
long guest_change_owner(int descriptor, uint32_t user, uint32_t group);
long guest_is_open(int descriptor);

static const int guest_read_only = 0;
static const int guest_write_only = 1;
static const int guest_read_write = 2;
long guest_create_flags(void);
long guest_nonblocking_flag(void);

// MARK: Events

struct guest_event {
    uint32_t events;
    uint64_t token;
};
static const uint32_t guest_readable = 0x001;
static const uint32_t guest_urgent = 0x002;
static const uint32_t guest_writable = 0x004;
static const uint32_t guest_error = 0x008;
static const uint32_t guest_hung_up = 0x010;
static const uint32_t guest_peer_closed = 0x2000;
static const uint32_t guest_on_change = 1u << 31;

long guest_epoll(void);
long guest_epoll_add(int epoll, int descriptor, uint32_t events, uint64_t token);
long guest_epoll_remove(int epoll, int descriptor);
long guest_epoll_wait(int epoll, struct guest_event *events, int capacity, int milliseconds);
/// A descriptor that becomes readable when a child ends; SIGCHLD is blocked and SIGPIPE ignored from then on.
long guest_child_events(void);
/// Empties the descriptor above.
void guest_clear_child_events(int descriptor);

// MARK: Processes

static const uint64_t guest_new_mounts = 0x00020000;
static const uint64_t guest_new_ipc = 0x08000000;
static const uint64_t guest_new_processes = 0x20000000;

static const uint64_t guest_new_control_groups = 0x02000000;
/// Not a namespace: the root and the working directory, which are shared with the parent.
static const uint64_t guest_own_paths = 0x00000200;

/// As fork(2), into new namespaces, and into the control group of a descriptor where that is not negative.
long guest_fork(uint64_t namespaces, int group);
/// Leaves namespaces of the kinds above for new ones.
long guest_leave(uint64_t namespaces);
/// Enters those namespaces, of the kinds above, that the process of `descriptor` is in.
long guest_enter(int descriptor, uint64_t namespaces);
/// Gives back what a child of init inherited and a program must not: blocked and ignored signals.
void guest_reset_signals(void);
/// The next child that ended: its process id, 0 where none has ended yet, -ECHILD where there is none.
long guest_reap(int32_t *status);
long guest_reap_blocking(int32_t *status);
/// Waits for a child: its process id, or 0 where it has not ended in time.
long guest_reap_within(int32_t process, int milliseconds, int32_t *status);
long guest_kill(int32_t process, int signal);
long guest_execute(const uint8_t *path, uint8_t *const GUEST_NULLABLE *GUEST_NONNULL arguments,
                   uint8_t *const GUEST_NULLABLE *GUEST_NONNULL environment);
long guest_new_session(void);
long guest_process_id(void);
void guest_set_mask(uint32_t mask);
long guest_set_groups(const uint32_t *groups, size_t count);
long guest_set_group(uint32_t group);
long guest_set_user(uint32_t user);
/// Orphans of this process's descendants become its children.
long guest_adopt_orphans(void);
/// A descriptor of a process, for its namespaces.
long guest_process_descriptor(int32_t process);
/// Closes every descriptor from `first` on.
void guest_close_from(int first);
_Noreturn void guest_exit(int status);

// MARK: Files

long guest_change_directory(const uint8_t *path);
long guest_change_root(const uint8_t *path);
long guest_make_directory(const uint8_t *path, uint32_t mode);
long guest_make_device(const uint8_t *path, uint32_t mode, uint32_t major, uint32_t minor);
long guest_make_link(const uint8_t *target, const uint8_t *path);
long guest_remove(const uint8_t *path);
long guest_access_to_execute(const uint8_t *path);
/// The type and permission bits of what `path` leads to.
long guest_mode(const uint8_t *path, uint32_t *mode);
long guest_mount(const uint8_t *source, const uint8_t *target, const uint8_t *GUEST_NULLABLE type, uint64_t flags,
                 const uint8_t *GUEST_NULLABLE options);
long guest_unmount(const uint8_t *target, int flags);
/// The names in a directory, each with a NUL byte, as many as there is room for; gives how many bytes they take.
long guest_list(const uint8_t *path, uint8_t *names, size_t capacity);

static const int guest_unmount_detach = 2;
static const uint64_t guest_mount_read_only = 1;
static const uint64_t guest_mount_no_setuid = 2;
static const uint64_t guest_mount_no_devices = 4;
static const uint64_t guest_mount_no_programs = 8;
static const uint64_t guest_mount_again = 32;
static const uint64_t guest_mount_no_access_times = 1024;
static const uint64_t guest_mount_bind = 4096;
static const uint64_t guest_mount_move = 8192;

// MARK: The machine

/// Nanoseconds since the machine started.
uint64_t guest_monotonic_clock(void);
long guest_set_clock(uint64_t nanoseconds);
/// Mixes bytes into the kernel's random numbers, credits them, and has its generator seeded anew at once.
long guest_add_entropy(const uint8_t *bytes, size_t count);
/// Random bytes, at most 256.
long guest_random(uint8_t *bytes, size_t count);
long guest_set_hostname(const uint8_t *name, size_t length);
long guest_loopback_up(void);
/// Sends requests to the kernel's routing socket and takes the acknowledgement of each; the first that failed says why.
long guest_route_requests(const uint8_t *requests, size_t count, uint32_t number);
/// Removes all addresses of an interface.
long guest_remove_addresses(uint32_t interface);
/// Ends all TCP connections but those of this machine with itself, as by a reset; gives how many.
long guest_reset_connections(void);
void guest_sync(void);
long guest_power_off(void);
long guest_reboot(void);

// MARK: Transports

/// A stream to the host; the connection is under way when this returns.
long guest_vsock_connect(uint32_t context, uint32_t port);
/// How the connection went: 0 or an error.
long guest_socket_outcome(int descriptor);
/// The kernel's announcements of devices.
long guest_device_events(void);

const char *guest_error_text(int error);

static const int guest_eperm = 1;
static const int guest_enoent = 2;
static const int guest_eintr = 4;
static const int guest_enoexec = 8;
static const int guest_ebadf = 9;
static const int guest_echild = 10;
static const int guest_eagain = 11;
static const int guest_enomem = 12;
static const int guest_eacces = 13;
static const int guest_eexist = 17;
static const int guest_esrch = 3;
static const int guest_enodev = 19;
static const int guest_eafnosupport = 97;
static const int guest_enotdir = 20;
static const int guest_eisdir = 21;
static const int guest_einval = 22;
static const int guest_erofs = 30;
static const int guest_epipe = 32;
static const int guest_etimedout = 110;
static const int guest_ecanceled = 125;

#ifdef __clang__
#pragma clang assume_nonnull end
#endif
