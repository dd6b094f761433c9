// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Newer than some headers.
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define USER_MODE_ONLY 1
#define WRITE_PROTECT_ASYNC (1ULL << 15)

static int open_userfault(void) {
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        close(device);
        if (fd >= 0) return fd;
    }
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

int clinux_userfault_open(void) {
    int fd = open_userfault();
    if (fd < 0) return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 512);
    if (high < 0) return fd;
    close(fd);
    return high;
}

int clinux_userfault_enable_removals(int fd) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    return ioctl(fd, UFFDIO_API, &api);
}

int clinux_userfault_register(int fd, uint64_t start, uint64_t length) {
    struct uffdio_register range = {.range = {start, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &range);
}

// Linux, mm/memory.c, should_fault_around(): not where a range is registered for write protection. With UFFD_FEATURE_WP_ASYNC
// (6.7) any mapping can be, nobody has to answer, and nothing is protected unless it is asked for.
int clinux_map_singly(uint64_t start, uint64_t length) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (fd < 0) return -1;
    struct uffdio_api api = {.api = UFFD_API, .features = WRITE_PROTECT_ASYNC};
    struct uffdio_register range = {.range = {start, length}, .mode = UFFDIO_REGISTER_MODE_WP};
    if (ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &range) == 0) return fd;
    int failure = errno;
    close(fd);
    errno = failure;
    return -1;
}

int clinux_userfault_copy(int fd, uint64_t to, const void *from, uint64_t length, uint64_t *done) {
    struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)from, .len = length};
    int result = ioctl(fd, UFFDIO_COPY, &copy);
    *done = copy.copy > 0 ? (uint64_t)copy.copy : 0;
    return result;
}

int clinux_userfault_zero(int fd, uint64_t to, uint64_t length, uint64_t *done) {
    struct uffdio_zeropage zero = {.range = {to, length}};
    int result = ioctl(fd, UFFDIO_ZEROPAGE, &zero);
    *done = zero.zeropage > 0 ? (uint64_t)zero.zeropage : 0;
    return result;
}

int clinux_userfault_wake(int fd, uint64_t start, uint64_t length) {
    struct uffdio_range range = {start, length};
    return ioctl(fd, UFFDIO_WAKE, &range);
}

int clinux_userfault_read(int fd, struct clinux_fault *faults, size_t capacity) {
    struct uffd_msg messages[clinux_fault_limit];
    if (capacity > clinux_fault_limit) capacity = clinux_fault_limit;
    struct iovec space = {messages, capacity * sizeof *messages};
    ssize_t got = preadv2(fd, &space, 1, -1, RWF_NOWAIT);
    // Before 6.10 the kernel knows no such read of a userfaultfd; then the descriptor's own flag has to do.
    if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == ESPIPE || errno == EINVAL))
        got = read(fd, messages, space.iov_len);
    if (got < 0) return -1;
    int count = (int)((size_t)got / sizeof *messages);
    for (int i = 0; i < count; i++) {
        switch (messages[i].event) {
        case UFFD_EVENT_PAGEFAULT:
            faults[i] = (struct clinux_fault){clinux_fault_missing, messages[i].arg.pagefault.address, 0};
            break;
        case UFFD_EVENT_REMOVE:
            faults[i] = (struct clinux_fault){
                clinux_fault_removed, messages[i].arg.remove.start, messages[i].arg.remove.end};
            break;
        default: faults[i] = (struct clinux_fault){clinux_fault_other, 0, 0};
        }
    }
    return count;
}

bool clinux_is_userfault(int fd) {
    char path[32], target[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) return false;
    target[length] = 0;
    return strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

// Linux, Documentation/virt/kvm/api.rst, 4.143.
struct pre_fault_memory {
    uint64_t address, size, flags, padding[5];
};

int clinux_kvm_prefault(int vcpu, uint64_t address, uint64_t size) {
    struct pre_fault_memory range = {.address = address, .size = size};
    // What is left is in the structure when a signal, or another vCPU's work, came between.
    while (range.size > 0) {
        if (ioctl(vcpu, _IOWR(0xAE, 0xd5, struct pre_fault_memory), &range) < 0 && errno != EINTR && errno != EAGAIN)
            return -1;
    }
    return 0;
}

int clinux_populate(void *start, size_t length, bool writing) {
    return madvise(start, length, writing ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}
