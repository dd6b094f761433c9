// SPDX-License-Identifier: Apache-2.0
//
// What a process gives up for good, and who is at the other end of a unix socket.
#ifndef MARTLET_CONFINEMENT_H
#define MARTLET_CONFINEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// The user at the other end of a unix socket (SO_PEERCRED); -1 with errno.
int clinux_peer_user(int fd, uid_t *user);
/// The process there, as it was when the two were connected; -1 with errno.
pid_t clinux_peer_process(int fd);

/// prctl(2), PR_SET_NO_NEW_PRIVS.
int clinux_no_new_privileges(void);

/// The version of Landlock that the kernel has; -1 where it has none.
int clinux_landlock_version(void);
/// Access that clinux_landlock_path gives.
enum { clinux_landlock_read = 1, clinux_landlock_make = 2, clinux_landlock_remove = 4 };
/// A new ruleset that handles all access to files that this code knows of; its descriptor, or -1.
int clinux_landlock_ruleset(void);
/// Allows access below a path. `make`: files and sockets may be created, written, renamed and
/// removed; `remove`: only that.
int clinux_landlock_path(int ruleset, const char *path, int access);
/// Nothing else from now on. Wants no_new_privs.
int clinux_landlock_restrict(int ruleset);

/// From now on all system calls but these fail with EPERM (seccomp(2)); sockets of other families than unix, IPv4, IPv6
/// netlink too, and memory that can be executed. Wants no_new_privs.
int clinux_seccomp_allow(const int *calls, size_t count);

/// The calls that a program of one thread, which serves sockets and writes files, may need; how many are there.
size_t clinux_service_calls(const int **calls);

/// The calls that a program of one thread needs which hands pages of a file to others; how many are there.
/// @param fetches It writes what comes from another host to that file before.
size_t clinux_page_server_calls(bool fetches, const int **calls);

/// The calls of one that hands them to a stream, and waits in nothing but reading and writing; how many are there.
size_t clinux_page_sender_calls(const int **calls);

/// SO_SNDBUF, as high as the user may; gives what it has become, or -1.
int clinux_send_buffer(int fd, int bytes);

#endif
