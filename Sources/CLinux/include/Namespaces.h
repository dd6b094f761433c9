// SPDX-License-Identifier: Apache-2.0
//
// Namespaces of a process's own, and the mounts with which it makes itself a root directory.
#ifndef MARTLET_NAMESPACES_H
#define MARTLET_NAMESPACES_H

#include <stdint.h>

/// The process's effective capabilities, a bit each (capabilities(7)); 0 where it has none, or they cannot be read.
uint64_t clinux_capabilities(void);
/// Gives up all capabilities but these; 0, or -1 with errno.
int clinux_keep_capabilities(uint64_t kept);
extern const uint64_t CLINUX_CAP_SYS_ADMIN, CLINUX_CAP_NET_BIND_SERVICE, CLINUX_CAP_DAC_OVERRIDE;

/// New mount, IPC and UTS namespaces (unshare(2)), and, if `user`, a user namespace in which the process's user and group
/// are themselves. What is mounted on the host later is seen; what is mounted here is not seen there. 0, or -1 with errno,
/// after which with `user` the process may be in a namespace without a user.
int clinux_own_namespaces(int user);
/// Whether a process like this one can do that: a child tries. 0, or the errno with which it cannot.
int clinux_try_namespaces(int user);

/// An empty file system in memory over a directory; 0, or -1 with errno.
int clinux_mount_empty(const char *target);
/// Shows what is at one path, with all that is mounted below it, at another as well, where it cannot be written to and has
/// no devices, no programs and no set-user-ID bits; 0, or -1 with errno.
int clinux_mount_readable(const char *source, const char *target);
/// The same, to be written to, and without what is mounted below it.
int clinux_mount_writable(const char *source, const char *target);
/// Makes the mount in the working directory the root directory, and lets go of the old one; 0, or -1 with errno.
int clinux_become_root(void);
/// Undoes clinux_mount_empty.
void clinux_unmount(const char *target);

#endif
