// SPDX-License-Identifier: Apache-2.0
//
// What Swift's Glibc module cannot see: variadic calls, macros with arguments, calls without a wrapper in glibc,
// and structures of the kernel's own headers. Thin: one call here is one call there; policy is in Platform.
#ifndef MARTLET_CLINUX_H
#define MARTLET_CLINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include "Confinement.h"
#include "InternetSockets.h"
#include "Namespaces.h"
#include "PageFaults.h"
#include "Taps.h"
#include <linux/kvm.h>
#include <linux/vm_sockets.h>

// --- descriptors ---------------------------------------------------------------------------------------------

/// open(2), always with O_CLOEXEC.
int clinux_open(const char *path, int flags, unsigned mode);
/// openat(2), always with O_CLOEXEC.
int clinux_openat(int directory, const char *path, int flags, unsigned mode);
/// openat2(2), always with O_CLOEXEC: the path stays below the directory and goes through no symbolic link.
int clinux_open_beneath(int directory, const char *path, int flags);
/// Closes all descriptors but these, which are in ascending order.
void clinux_close_all_but(const int *fds, size_t count);
/// fcntl(2) with an integer argument.
int clinux_fcntl(int fd, int command, long argument);
/// ioctl(2) with an integer argument.
int clinux_ioctl(int fd, unsigned long request, unsigned long argument);
/// ioctl(2) with a pointer argument.
int clinux_ioctl_pointer(int fd, unsigned long request, void *argument);
int clinux_memfd_create(const char *name, unsigned flags);
int clinux_pipe2(int fds[2], int flags);
int clinux_accept4(int fd, int flags);
/// fallocate(2): 1 = FALLOC_FL_KEEP_SIZE, 2 = FALLOC_FL_PUNCH_HOLE, 0x10 = FALLOC_FL_ZERO_RANGE.
int clinux_fallocate(int fd, int mode, int64_t offset, int64_t length);
int clinux_pidfd_open(pid_t pid);
int clinux_pidfd_send_signal(int pidfd, int signal);
int clinux_renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags);
/// For lseek(2).
extern const int CLINUX_SEEK_DATA, CLINUX_SEEK_HOLE;
/// copy_file_range(2) without explicit offsets.
ssize_t clinux_copy_file_range(int from, int to, size_t length);
/// copy_file_range(2) between places in files.
ssize_t clinux_copy_file_part(int from, int64_t from_offset, int to, int64_t to_offset, size_t length);

// --- memory --------------------------------------------------------------------------------------------------

/// How many bytes from the start are whole pages of 4 KiB that are alike in being zero or not, and in `*zero` which.
/// `count` is a multiple of a page.
size_t clinux_page_run(const void *bytes, size_t count, bool *zero);

/// A stretch of pages, by address.
struct clinux_stretch {
    uint64_t start, end;
};

/// Finds pages that a private mapping has of its own: there or swapped out, and neither a mapped file's nor the page of
/// zeros. `pagemap` is an open /proc/self/pagemap. Returns how many stretches, at most `capacity`, were put into
/// `stretches`, and in `*next` where to go on (`end` when all was seen); -1 with errno.
ssize_t clinux_own_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next);
/// The same of those that are there and that no other process has.
ssize_t clinux_exclusive_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next);

/// preadv2(2) and pwritev2(2). Flags: 8 = RWF_NOWAIT (EAGAIN instead of waiting for a disk).
ssize_t clinux_preadv2(int fd, const struct iovec *vectors, int count, int64_t offset, int flags);
ssize_t clinux_pwritev2(int fd, const struct iovec *vectors, int count, int64_t offset, int flags);
/// getrandom(2) without flags.
ssize_t clinux_getrandom(void *bytes, size_t length);

/// The current thread's errno, which a Swift call sequence may read right after a failed call.
int clinux_errno(void);

// --- sockets -------------------------------------------------------------------------------------------------

/// sendmsg(2) with the bytes and up to 16 descriptors (SCM_RIGHTS).
ssize_t clinux_send_descriptors(int socket, const void *bytes, size_t length, const int *fds, size_t count);
/// recvmsg(2) with up to `capacity` (at most 16) descriptors, close-on-exec; `*count` says how many came.
ssize_t clinux_receive_descriptors(int socket, void *bytes, size_t length, int *fds, size_t capacity, size_t *count);

/// One message of clinux_send_messages and clinux_receive_messages.
struct clinux_message {
    struct iovec *vectors;
    size_t vector_count;
    size_t length;  ///< How much was sent or received.
    bool truncated; ///< Received: the message was longer than the room for it.
};

enum { clinux_message_limit = 32 };

/// sendmmsg(2), non-blocking and without SIGPIPE, of up to 32 messages; the number sent, or -1 when not even the first.
int clinux_send_messages(int socket, struct clinux_message *messages, size_t count);
/// recvmmsg(2), non-blocking, of up to 32 messages; the number received, or -1.
int clinux_receive_messages(int socket, struct clinux_message *messages, size_t count);

// --- processes -----------------------------------------------------------------------------------------------

/// How a child is started; see clinux_spawn.
struct clinux_spawn {
    const char *path;              ///< The program's path; not searched for.
    const char *const *arguments;  ///< NULL-terminated argv.
    const char *const *environment;///< NULL-terminated envp.
    const char *directory;         ///< Working directory, or NULL to keep it.
    const int *fds;                ///< fds[i] becomes descriptor i of the child; -1 means /dev/null.
    size_t fd_count;               ///< All other descriptors are closed in the child.
    int parent_death_signal;       ///< Sent to the child when the thread that spawned it ends; 0 for none.
    bool new_session;              ///< setsid(2) in the child.
    bool new_process_group;        ///< setpgid(0, 0) in the child.
};

/// Starts a child with default signal dispositions and an empty signal mask. Returns its pid and puts a pidfd into
/// `*pidfd` (if not NULL), or returns -1 with errno, that of the child's failed step (exec included).
pid_t clinux_spawn(const struct clinux_spawn *spawn, int *pidfd);

/// fork(2), whose child has the calling thread only.
pid_t clinux_fork(void);
/// Children that end leave nothing behind to be waited for.
void clinux_ignore_children(void);

/// waitid(2) by pid with WEXITED. `*code` gets the exit status or signal number, `*signaled` which of them.
/// Returns 1 when reaped, 0 when still running (with `nohang`), -1 with errno.
int clinux_wait(pid_t pid, bool nohang, int *code, bool *signaled);

// --- KVM -----------------------------------------------------------------------------------------------------

/// Where the fields of struct kvm_run lie that a monitor reads and writes; the shared page is never copied.
enum {
    clinux_kvm_run_immediate_exit = offsetof(struct kvm_run, immediate_exit),
    clinux_kvm_run_exit_reason = offsetof(struct kvm_run, exit_reason),
    clinux_kvm_run_io_direction = offsetof(struct kvm_run, io.direction),
    clinux_kvm_run_io_size = offsetof(struct kvm_run, io.size),
    clinux_kvm_run_io_port = offsetof(struct kvm_run, io.port),
    clinux_kvm_run_io_count = offsetof(struct kvm_run, io.count),
    clinux_kvm_run_io_data_offset = offsetof(struct kvm_run, io.data_offset),
    clinux_kvm_run_mmio_address = offsetof(struct kvm_run, mmio.phys_addr),
    clinux_kvm_run_mmio_data = offsetof(struct kvm_run, mmio.data),
    clinux_kvm_run_mmio_length = offsetof(struct kvm_run, mmio.len),
    clinux_kvm_run_mmio_is_write = offsetof(struct kvm_run, mmio.is_write),
    clinux_kvm_run_internal_suberror = offsetof(struct kvm_run, internal.suberror),
    clinux_kvm_run_internal_count = offsetof(struct kvm_run, internal.ndata),
    clinux_kvm_run_internal_data = offsetof(struct kvm_run, internal.data),
    clinux_kvm_run_entry_failure = offsetof(struct kvm_run, fail_entry.hardware_entry_failure_reason),
    clinux_kvm_run_system_event = offsetof(struct kvm_run, system_event.type),
};

/// Counts `iterations` down to zero with the two instructions (dec, jnz) that the KVM probe's guest uses.
void clinux_counted_loop(uint64_t iterations);

/// The processor's time-stamp counter; 0 where there is none.
uint64_t clinux_timestamp_counter(void);
/// Makes a signal do nothing but interrupt the call that its thread is in.
int clinux_interrupt_only(int signal);
/// The first real-time signal that programs may use.
int clinux_first_realtime_signal(void);
/// Names the calling thread; at most 15 bytes.
/* Lets go of the program's own pages that are never written: those that are still needed come back from the page cache
   by themselves, those that only its start needed do not. */
void clinux_drop_program_pages(void);
void clinux_name_thread(const char *name);
/* The calling thread's, with its zero byte. */
void clinux_thread_name(char name[16]);
/// Limits malloc to one arena, without a private one for each thread.
void clinux_single_malloc_arena(void);

// --- numbers that are macros in C ----------------------------------------------------------------------------

extern const unsigned long CLINUX_KVM_GET_API_VERSION, CLINUX_KVM_CREATE_VM, CLINUX_KVM_CHECK_EXTENSION,
    CLINUX_KVM_GET_VCPU_MMAP_SIZE, CLINUX_KVM_GET_SUPPORTED_CPUID, CLINUX_KVM_GET_MSR_INDEX_LIST,
    CLINUX_KVM_GET_MSR_FEATURE_INDEX_LIST;
extern const unsigned long CLINUX_KVM_CREATE_VCPU, CLINUX_KVM_SET_USER_MEMORY_REGION, CLINUX_KVM_SET_TSS_ADDR,
    CLINUX_KVM_SET_IDENTITY_MAP_ADDR, CLINUX_KVM_CREATE_IRQCHIP, CLINUX_KVM_CREATE_PIT2, CLINUX_KVM_IRQFD,
    CLINUX_KVM_IOEVENTFD, CLINUX_KVM_SET_GSI_ROUTING, CLINUX_KVM_GET_DIRTY_LOG, CLINUX_KVM_GET_CLOCK,
    CLINUX_KVM_SET_CLOCK, CLINUX_KVM_GET_IRQCHIP, CLINUX_KVM_SET_IRQCHIP, CLINUX_KVM_GET_PIT2, CLINUX_KVM_SET_PIT2,
    CLINUX_KVM_ENABLE_CAP, CLINUX_KVM_IRQ_LINE;
extern const unsigned long CLINUX_KVM_RUN, CLINUX_KVM_GET_REGS, CLINUX_KVM_SET_REGS, CLINUX_KVM_GET_SREGS,
    CLINUX_KVM_SET_SREGS, CLINUX_KVM_GET_MSRS, CLINUX_KVM_SET_MSRS, CLINUX_KVM_SET_CPUID2, CLINUX_KVM_GET_CPUID2,
    CLINUX_KVM_GET_FPU, CLINUX_KVM_SET_FPU, CLINUX_KVM_GET_LAPIC, CLINUX_KVM_SET_LAPIC, CLINUX_KVM_GET_MP_STATE,
    CLINUX_KVM_SET_MP_STATE, CLINUX_KVM_GET_XSAVE, CLINUX_KVM_SET_XSAVE, CLINUX_KVM_GET_XSAVE2, CLINUX_KVM_GET_XCRS,
    CLINUX_KVM_SET_XCRS, CLINUX_KVM_GET_DEBUGREGS, CLINUX_KVM_SET_DEBUGREGS, CLINUX_KVM_GET_VCPU_EVENTS,
    CLINUX_KVM_SET_VCPU_EVENTS, CLINUX_KVM_KVMCLOCK_CTRL, CLINUX_KVM_GET_TSC_KHZ, CLINUX_KVM_SET_TSC_KHZ,
    CLINUX_KVM_SET_SIGNAL_MASK, CLINUX_KVM_NMI, CLINUX_KVM_GET_NESTED_STATE, CLINUX_KVM_SET_NESTED_STATE;
extern const unsigned long CLINUX_TUNSETOFFLOAD;
extern const unsigned long CLINUX_BLKGETSIZE64, CLINUX_BLKDISCARD, CLINUX_BLKZEROOUT, CLINUX_FICLONE;

#endif
