// SPDX-License-Identifier: Apache-2.0
//
// Page faults that a program answers itself (userfaultfd(2), ioctl_userfaultfd(2)), and pages that are there beforehand.
#ifndef MARTLET_PAGE_FAULTS_H
#define MARTLET_PAGE_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// A new userfaultfd, non-blocking and close-on-exec, for faults of the kernel's too: by /dev/userfaultfd, else by
/// userfaultfd(2). -1 with errno of the latter. Its number is a high one: a process that ends closes its files from the
/// highest to the lowest, and KVM's must not wait for pages that come by this one when they are.
int clinux_userfault_open(void);
/// UFFDIO_API with UFFD_FEATURE_EVENT_REMOVE: a madvise(2) that takes pages away is told, and waits until it is read.
int clinux_userfault_enable_removals(int fd);
/// UFFDIO_REGISTER for pages that are missing.
int clinux_userfault_register(int fd, uint64_t start, uint64_t length);
/// Has each page of a range that is touched mapped alone, without those around it, for as long as the descriptor is open that
/// it gives. -1 with errno where the kernel cannot (before Linux 6.7).
int clinux_map_singly(uint64_t start, uint64_t length);
/// UFFDIO_COPY. Returns 0 or -1 with errno; `*done` says how many bytes are there now, in either case.
int clinux_userfault_copy(int fd, uint64_t to, const void *from, uint64_t length, uint64_t *done);
/// UFFDIO_ZEROPAGE, as above.
int clinux_userfault_zero(int fd, uint64_t to, uint64_t length, uint64_t *done);
/// UFFDIO_WAKE: whoever waits for a page in the range looks again.
int clinux_userfault_wake(int fd, uint64_t start, uint64_t length);

struct clinux_fault {
    /// What happened: a page is missing, a range was taken away, or something that nobody asked to be told of.
    enum clinux_fault_kind { clinux_fault_missing, clinux_fault_removed, clinux_fault_other } kind;
    uint64_t start; ///< Missing: the address. Removed: the first of the range.
    uint64_t end;   ///< Removed: the end of the range.
};

enum { clinux_fault_limit = 32 };

/// Reads up to 32 events without waiting, even where the other side has made the descriptor a blocking one meanwhile
/// (kernels from 6.10). Returns how many; -1 with errno, EAGAIN when there are none.
int clinux_userfault_read(int fd, struct clinux_fault *faults, size_t capacity);

/// Whether the descriptor is a userfaultfd.
bool clinux_is_userfault(int fd);

/// madvise(2) with MADV_POPULATE_READ or MADV_POPULATE_WRITE (kernels from 5.14).
int clinux_populate(void *start, size_t length, bool writing);

/// Finds pages of a mapped file that are in this process's page tables. As clinux_own_pages; kernels from 6.7, else ENOTTY.
struct clinux_stretch;
ssize_t clinux_mapped_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next);
/// The same of those that are there as part of a huge page of 2 MiB.
ssize_t clinux_huge_pages(
    int pagemap, uint64_t start, uint64_t end, struct clinux_stretch *stretches, size_t capacity, uint64_t *next);

/// KVM_PRE_FAULT_MEMORY of a vCPU (kernels from 6.11): the guest's pages are in its page tables. 0, or -1 with errno.
int clinux_kvm_prefault(int vcpu, uint64_t address, uint64_t size);

#endif
