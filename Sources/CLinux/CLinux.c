// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/openat2.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

int clinux_open(const char *path, int flags, unsigned mode) { return open(path, flags | O_CLOEXEC, mode); }

int clinux_openat(int directory, const char *path, int flags, unsigned mode) {
    return openat(directory, path, flags | O_CLOEXEC, mode);
}

int clinux_open_beneath(int directory, const char *path, int flags) {
    struct open_how how = {
        .flags = (unsigned)flags | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int clinux_fcntl(int fd, int command, long argument) { return fcntl(fd, command, argument); }

int clinux_ioctl(int fd, unsigned long request, unsigned long argument) { return ioctl(fd, request, argument); }

int clinux_ioctl_pointer(int fd, unsigned long request, void *argument) { return ioctl(fd, request, argument); }

const int CLINUX_SEEK_DATA = SEEK_DATA, CLINUX_SEEK_HOLE = SEEK_HOLE;

int clinux_memfd_create(const char *name, unsigned flags) { return memfd_create(name, flags | MFD_CLOEXEC); }

int clinux_pipe2(int fds[2], int flags) { return pipe2(fds, flags | O_CLOEXEC); }

int clinux_accept4(int fd, int flags) { return accept4(fd, NULL, NULL, flags | SOCK_CLOEXEC); }

int clinux_fallocate(int fd, int mode, int64_t offset, int64_t length) { return fallocate(fd, mode, offset, length); }

static void close_from_to(unsigned first, unsigned last) {
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0) return;
    // Before Linux 5.9.
    long limit = sysconf(_SC_OPEN_MAX);
    if (last >= (unsigned long)limit) last = (unsigned)limit - 1;
    for (unsigned fd = first; fd <= last; fd++) close((int)fd);
}

void clinux_close_all_but(const int *fds, size_t count) {
    unsigned next = 0;
    for (size_t i = 0; i < count; i++) {
        if (fds[i] > (int)next) close_from_to(next, (unsigned)fds[i] - 1);
        if (fds[i] >= (int)next) next = (unsigned)fds[i] + 1;
    }
    close_from_to(next, ~0U);
}

int clinux_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

int clinux_pidfd_send_signal(int pidfd, int signal) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

int clinux_renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    return renameat2(from_directory, from, to_directory, to, flags);
}

ssize_t clinux_copy_file_range(int from, int to, size_t length) {
    return copy_file_range(from, NULL, to, NULL, length, 0);
}

ssize_t clinux_copy_file_part(int from, int64_t from_offset, int to, int64_t to_offset, size_t length) {
    off64_t in = from_offset, out = to_offset;
    return copy_file_range(from, &in, to, &out, length, 0);
}

// --- memory --------------------------------------------------------------------------------------------------

static bool page_is_all_zero(const unsigned char *page) { return page[0] == 0 && memcmp(page, page + 1, 4095) == 0; }

size_t clinux_page_run(const void *bytes, size_t count, bool *zero) {
    const unsigned char *start = bytes;
    size_t length = 4096;
    *zero = page_is_all_zero(start);
    while (length < count && page_is_all_zero(start + length) == *zero) length += 4096;
    return length;
}

// Linux, Documentation/admin-guide/mm/pagemap.rst: since 6.7 the kernel looks itself, and skips what is empty.
struct page_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct page_region {
    uint64_t start, end, categories;
};
enum {
    page_is_file = 1 << 2,
    page_is_present = 1 << 3,
    page_is_swapped = 1 << 4,
    page_is_zero = 1 << 5,
    page_is_huge = 1 << 6,
};
// All of `is`, none of `is_not`, and at least one of `any`.
struct page_kind {
    uint64_t is, is_not, any;
};

static ssize_t scan_pages(
    int pagemap, struct page_kind kind, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity,
    uint64_t *next) {
    struct page_region regions[64];
    struct page_scan scan = {
        .size = sizeof scan, .start = start, .end = end, .vec = (uint64_t)(uintptr_t)regions,
        .vec_len = capacity < 64 ? capacity : 64, .category_inverted = kind.is_not,
        .category_mask = kind.is | kind.is_not, .category_anyof_mask = kind.any,
    };
    int count = ioctl(pagemap, _IOWR('f', 16, struct page_scan), &scan);
    if (count < 0) return -1;
    for (int i = 0; i < count; i++) stretches[i] = (struct clinux_stretch){regions[i].start, regions[i].end};
    *next = scan.walk_end;
    return count;
}

// Before: one word a page. Bit 63 there, 62 swapped out, 61 a file's or shared, 56 mapped nowhere else.
static ssize_t read_pages(
    int pagemap, bool exclusive, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity,
    uint64_t *next) {
    uint64_t entries[1024];
    size_t found = 0;
    uint64_t address = start;
    while (address < end) {
        size_t wanted = (end - address) / 4096;
        if (wanted > 1024) wanted = 1024;
        ssize_t got = pread(pagemap, entries, wanted * 8, (off_t)(address / 4096 * 8));
        if (got < 8) {
            if (got >= 0) errno = EIO;
            return -1;
        }
        for (size_t i = 0; i < (size_t)got / 8; i++, address += 4096) {
            if (!(entries[i] >> 62) || (entries[i] >> 61 & 1)) continue;
            if (exclusive && (!(entries[i] >> 63) || !(entries[i] >> 56 & 1))) continue;
            if (found > 0 && stretches[found - 1].end == address) {
                stretches[found - 1].end += 4096;
                continue;
            }
            if (found == capacity) {
                *next = address;
                return (ssize_t)found;
            }
            stretches[found++] = (struct clinux_stretch){address, address + 4096};
        }
    }
    *next = end;
    return (ssize_t)found;
}

ssize_t clinux_own_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next) {
    struct page_kind own = {.is_not = page_is_file | page_is_zero, .any = page_is_present | page_is_swapped};
    ssize_t count = scan_pages(pagemap, own, start, end, stretches, capacity, next);
    if (count >= 0 || (errno != ENOTTY && errno != EINVAL)) return count;
    return read_pages(pagemap, false, start, end, stretches, capacity, next);
}

ssize_t clinux_exclusive_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next) {
    // The kernel's own search does not know of it.
    return read_pages(pagemap, true, start, end, stretches, capacity, next);
}

ssize_t clinux_mapped_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next) {
    struct page_kind mapped = {.is = page_is_file, .any = page_is_present};
    return scan_pages(pagemap, mapped, start, end, stretches, capacity, next);
}

ssize_t clinux_huge_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next) {
    struct page_kind huge = {.is = page_is_file | page_is_huge, .any = page_is_present};
    return scan_pages(pagemap, huge, start, end, stretches, capacity, next);
}

ssize_t clinux_preadv2(int fd, const struct iovec *vectors, int count, int64_t offset, int flags) {
    return preadv2(fd, vectors, count, offset, flags);
}

ssize_t clinux_pwritev2(int fd, const struct iovec *vectors, int count, int64_t offset, int flags) {
    return pwritev2(fd, vectors, count, offset, flags);
}

ssize_t clinux_getrandom(void *bytes, size_t length) { return getrandom(bytes, length, 0); }

int clinux_errno(void) { return errno; }

enum { descriptor_limit = 16 };

ssize_t clinux_send_descriptors(int socket, const void *bytes, size_t length, const int *fds, size_t count) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * descriptor_limit)];
        struct cmsghdr alignment;
    } control = {0};
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count > descriptor_limit) {
        errno = EINVAL;
        return -1;
    }
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

ssize_t clinux_receive_descriptors(int socket, void *bytes, size_t length, int *fds, size_t capacity, size_t *count) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * descriptor_limit)];
        struct cmsghdr alignment;
    } control = {0};
    struct iovec vector = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    *count = 0;
    ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) return received;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t carried = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < carried; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            // A descriptor that nobody asked for must not stay open unseen.
            if (*count < capacity) {
                fds[(*count)++] = fd;
            } else {
                close(fd);
            }
        }
    }
    return received;
}

int clinux_send_messages(int socket, struct clinux_message *messages, size_t count) {
    struct mmsghdr headers[clinux_message_limit] = {0};
    if (count > clinux_message_limit) count = clinux_message_limit;
    for (size_t i = 0; i < count; i++) {
        headers[i].msg_hdr.msg_iov = messages[i].vectors;
        headers[i].msg_hdr.msg_iovlen = messages[i].vector_count;
    }
    int sent = sendmmsg(socket, headers, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL);
    for (int i = 0; i < sent; i++) messages[i].length = headers[i].msg_len;
    return sent;
}

int clinux_receive_messages(int socket, struct clinux_message *messages, size_t count) {
    struct mmsghdr headers[clinux_message_limit] = {0};
    if (count > clinux_message_limit) count = clinux_message_limit;
    for (size_t i = 0; i < count; i++) {
        headers[i].msg_hdr.msg_iov = messages[i].vectors;
        headers[i].msg_hdr.msg_iovlen = messages[i].vector_count;
    }
    int received = recvmmsg(socket, headers, (unsigned)count, MSG_DONTWAIT, NULL);
    for (int i = 0; i < received; i++) {
        messages[i].length = headers[i].msg_len;
        messages[i].truncated = (headers[i].msg_hdr.msg_flags & MSG_TRUNC) != 0;
    }
    return received;
}

// --- processes -----------------------------------------------------------------------------------------------

// Runs in the child of vfork-like clone; only async-signal-safe calls.
// Runs on its parent's memory and stack, which stand still until it executes the program or ends.
__attribute__((noinline, noreturn)) static void child_of_spawn(const struct clinux_spawn *spawn, int report, pid_t parent) {
    sigset_t none;
    for (int signal = 1; signal < NSIG; signal++) {
        struct sigaction current;
        if (sigaction(signal, NULL, &current) == 0 && current.sa_handler != SIG_DFL) {
            current.sa_handler = SIG_DFL;
            current.sa_flags = 0;
            sigaction(signal, &current, NULL);
        }
    }
    sigemptyset(&none);
    if (spawn->new_session && setsid() < 0) goto failed;
    if (spawn->new_process_group && setpgid(0, 0) < 0) goto failed;
    if (spawn->parent_death_signal != 0) {
        if (prctl(PR_SET_PDEATHSIG, spawn->parent_death_signal) < 0) goto failed;
        // The parent may have ended before the request was in force.
        if (getppid() != parent) _exit(127);
    }
    if (spawn->directory != NULL && chdir(spawn->directory) < 0) goto failed;

    // First everything out of the way of the low numbers, then each into its place.
    int count = (int)spawn->fd_count;
    int moved[64];
    if (count > 60) {
        errno = EINVAL;
        goto failed;
    }
    int high_report = fcntl(report, F_DUPFD_CLOEXEC, count);
    if (high_report < 0) goto failed;
    report = high_report;
    for (int i = 0; i < count; i++) {
        int from = spawn->fds[i];
        if (from < 0) {
            from = open("/dev/null", O_RDWR | O_CLOEXEC);
            if (from < 0) goto failed;
        }
        moved[i] = fcntl(from, F_DUPFD_CLOEXEC, count);
        if (moved[i] < 0) goto failed;
    }
    for (int i = 0; i < count; i++)
        if (dup2(moved[i], i) < 0) goto failed;
    // What was open without close-on-exec, by whomever, ends here; the report pipe has close-on-exec.
    if (syscall(SYS_close_range, count, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) < 0 && errno != ENOSYS) goto failed;
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(spawn->path, (char *const *)spawn->arguments, (char *const *)spawn->environment);
failed:;
    int code = errno;
    ssize_t written = write(report, &code, sizeof(code));
    (void)written;
    _exit(127);
}

pid_t clinux_spawn(const struct clinux_spawn *spawn, int *pidfd) {
    int report[2];
    sigset_t all, before;
    if (pipe2(report, O_CLOEXEC) < 0) return -1;
    // No handler of the parent may run in the child before it has reset them.
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t parent = getpid();
    // vfork: a copy of the page tables of a large program, and the copies of the pages that it writes to next, cost more
    // than the rest of a start together.
    pid_t child = vfork();
    if (child == 0) child_of_spawn(spawn, report[1], parent);
    int code = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (child < 0) {
        close(report[0]);
        errno = code;
        return -1;
    }
    ssize_t got;
    do {
        got = read(report[0], &code, sizeof(code));
    } while (got < 0 && errno == EINTR);
    close(report[0]);
    if (got == (ssize_t)sizeof(code)) {
        waitpid(child, NULL, 0);
        errno = code;
        return -1;
    }
    if (pidfd != NULL) {
        *pidfd = clinux_pidfd_open(child);
        if (*pidfd < 0) {
            code = errno;
            kill(child, SIGKILL);
            waitpid(child, NULL, 0);
            errno = code;
            return -1;
        }
    }
    return child;
}

pid_t clinux_fork(void) { return fork(); }

void clinux_ignore_children(void) { signal(SIGCHLD, SIG_IGN); }

int clinux_wait(pid_t pid, bool nohang, int *code, bool *signaled) {
    siginfo_t info = {0};
    int result;
    do {
        result = waitid(P_PID, (id_t)pid, &info, WEXITED | (nohang ? WNOHANG : 0));
    } while (result < 0 && errno == EINTR);
    if (result < 0) return -1;
    if (info.si_pid == 0) return 0;
    *code = info.si_status;
    *signaled = info.si_code != CLD_EXITED;
    return 1;
}

// --- KVM -----------------------------------------------------------------------------------------------------

void clinux_counted_loop(uint64_t iterations) {
#if defined(__x86_64__)
    __asm__ volatile("1: dec %0\n jnz 1b" : "+r"(iterations) : : "cc");
#else
    while (iterations > 0) {
        iterations--;
        __asm__ volatile("" : "+r"(iterations));
    }
#endif
}

uint64_t clinux_timestamp_counter(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

static void do_nothing(int signal) { (void)signal; }

int clinux_interrupt_only(int signal) {
    struct sigaction action = {.sa_handler = do_nothing};
    sigemptyset(&action.sa_mask);
    return sigaction(signal, &action, NULL);
}

int clinux_first_realtime_signal(void) { return SIGRTMIN; }

void clinux_drop_program_pages(void) {
    // The program headers follow the file's header, which is where the first segment begins.
    const ElfW(Phdr) *headers = (const void *)getauxval(AT_PHDR);
    unsigned long count = getauxval(AT_PHNUM);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), base = 0;
    bool has_base = false;
    if (headers == NULL) return;
    for (unsigned long i = 0; i < count; i++) {
        const ElfW(Phdr) *header = &headers[i];
        if (header->p_type != PT_LOAD) continue;
        if (!has_base) {
            base = (uintptr_t)headers - sizeof(ElfW(Ehdr)) - header->p_vaddr;
            has_base = true;
        }
        if (header->p_flags & PF_W) continue;
        uintptr_t start = (base + header->p_vaddr) & ~(page - 1);
        uintptr_t end = (base + header->p_vaddr + header->p_filesz + page - 1) & ~(page - 1);
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
}

void clinux_name_thread(const char *name) { prctl(PR_SET_NAME, name); }

void clinux_thread_name(char name[16]) { prctl(PR_GET_NAME, name); }

void clinux_single_malloc_arena(void) {
    mallopt(M_ARENA_MAX, 1);
}

// --- numbers that are macros in C ----------------------------------------------------------------------------

#define NUMBER(name) const unsigned long CLINUX_##name = name
NUMBER(KVM_GET_API_VERSION);
NUMBER(KVM_CREATE_VM);
NUMBER(KVM_CHECK_EXTENSION);
NUMBER(KVM_GET_VCPU_MMAP_SIZE);
NUMBER(KVM_GET_SUPPORTED_CPUID);
NUMBER(KVM_GET_MSR_INDEX_LIST);
NUMBER(KVM_GET_MSR_FEATURE_INDEX_LIST);
NUMBER(KVM_CREATE_VCPU);
NUMBER(KVM_SET_USER_MEMORY_REGION);
NUMBER(KVM_SET_TSS_ADDR);
NUMBER(KVM_SET_IDENTITY_MAP_ADDR);
NUMBER(KVM_CREATE_IRQCHIP);
NUMBER(KVM_CREATE_PIT2);
NUMBER(KVM_IRQFD);
NUMBER(KVM_IOEVENTFD);
NUMBER(KVM_SET_GSI_ROUTING);
NUMBER(KVM_GET_DIRTY_LOG);
NUMBER(KVM_GET_CLOCK);
NUMBER(KVM_SET_CLOCK);
NUMBER(KVM_GET_IRQCHIP);
NUMBER(KVM_SET_IRQCHIP);
NUMBER(KVM_GET_PIT2);
NUMBER(KVM_SET_PIT2);
NUMBER(KVM_ENABLE_CAP);
NUMBER(KVM_IRQ_LINE);
NUMBER(KVM_RUN);
NUMBER(KVM_GET_REGS);
NUMBER(KVM_SET_REGS);
NUMBER(KVM_GET_SREGS);
NUMBER(KVM_SET_SREGS);
NUMBER(KVM_GET_MSRS);
NUMBER(KVM_SET_MSRS);
NUMBER(KVM_SET_CPUID2);
NUMBER(KVM_GET_CPUID2);
NUMBER(KVM_GET_FPU);
NUMBER(KVM_SET_FPU);
NUMBER(KVM_GET_LAPIC);
NUMBER(KVM_SET_LAPIC);
NUMBER(KVM_GET_MP_STATE);
NUMBER(KVM_SET_MP_STATE);
NUMBER(KVM_GET_XSAVE);
NUMBER(KVM_SET_XSAVE);
NUMBER(KVM_GET_XSAVE2);
NUMBER(KVM_GET_XCRS);
NUMBER(KVM_SET_XCRS);
NUMBER(KVM_GET_DEBUGREGS);
NUMBER(KVM_SET_DEBUGREGS);
NUMBER(KVM_GET_VCPU_EVENTS);
NUMBER(KVM_SET_VCPU_EVENTS);
NUMBER(KVM_KVMCLOCK_CTRL);
NUMBER(KVM_GET_TSC_KHZ);
NUMBER(KVM_SET_TSC_KHZ);
NUMBER(KVM_SET_SIGNAL_MASK);
NUMBER(KVM_NMI);
NUMBER(KVM_GET_NESTED_STATE);
NUMBER(KVM_SET_NESTED_STATE);
NUMBER(TUNSETOFFLOAD);
NUMBER(BLKGETSIZE64);
NUMBER(BLKDISCARD);
NUMBER(BLKZEROOUT);
NUMBER(FICLONE);
