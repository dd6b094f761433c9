// SPDX-License-Identifier: Apache-2.0
//
// Sockets of IPv4 and IPv6, without the many shapes of struct sockaddr.
#ifndef MARTLET_INTERNET_SOCKETS_H
#define MARTLET_INTERNET_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/// An address and a port. IPv4 is written as ::ffff:a.b.c.d.
struct clinux_address {
    uint64_t high; ///< The first eight bytes, the first one highest.
    uint64_t low;
    uint16_t port; ///< Host byte order.
    bool is_ipv4;
};

/// Moves the calling thread into a network namespace (setns(2)).
int clinux_enter_network(int namespace);
/// Moves the calling thread into a new network namespace (unshare(2)).
int clinux_new_network(void);
/// socket(2), non-blocking and close-on-exec. Kinds: 1 stream, 2 datagram; protocol 0 for the usual one.
int clinux_internet_socket(bool ipv4, int kind, int protocol);
int clinux_internet_connect(int fd, const struct clinux_address *to);
int clinux_internet_bind(int fd, const struct clinux_address *to);
/// accept4(2), non-blocking and close-on-exec, with the peer's address.
int clinux_internet_accept(int fd, struct clinux_address *peer);
int clinux_internet_local_address(int fd, struct clinux_address *address);
/// setsockopt(2) with an int.
int clinux_set_option(int fd, int level, int name, int value);
/// getsockopt(2) of an int.
int clinux_get_option(int fd, int level, int name, int *value);
/// The next close(2) sends a reset and throws away what was not sent (SO_LINGER with no time).
int clinux_reset_on_close(int fd);

/// sendmsg(2) and recvmsg(2) of bytes, non-blocking and without SIGPIPE.
ssize_t clinux_send_vectors(int fd, struct iovec *vectors, size_t count);
ssize_t clinux_receive_vectors(int fd, struct iovec *vectors, size_t count);

/// sendmsg(2) to an address, from one of this host's unless that is NULL (IP_PKTINFO).
ssize_t clinux_send_vectors_to(int fd, struct iovec *vectors, size_t count, const struct clinux_address *to,
                               const struct clinux_address *from);

/// One datagram of the calls below.
struct clinux_datagram {
    void *bytes;
    size_t length;               ///< Sending: its length. Receiving: the room, then the length.
    struct clinux_address peer;  ///< Whom to, unless `has_peer` is false; or who it is from.
    bool has_peer;
    bool truncated;
    struct clinux_address local;  ///< Received: which address of this host's it came to, where that was asked for.
    bool has_local;
};

/// Asks for the above.
int clinux_enable_local_address(int fd, bool ipv4);

enum { clinux_datagram_limit = 32 };

/// recvmmsg(2) of up to 32 datagrams; the number, or -1.
int clinux_receive_datagrams(int fd, struct clinux_datagram *datagrams, size_t count);
/// sendmmsg(2) of up to 32 datagrams; the number, or -1 when not even the first.
int clinux_send_datagrams(int fd, struct clinux_datagram *datagrams, size_t count);

/// What the network said about a datagram (IP_RECVERR, ip(7)).
struct clinux_socket_error {
    uint32_t code; ///< An errno.
    uint8_t type;  ///< ICMP's or ICMPv6's type, 0 when the error is not from an ICMP message.
    uint8_t icmp_code;
    bool is_icmp;
    uint32_t information;            ///< The MTU where the code is EMSGSIZE.
    struct clinux_address offender;  ///< Who said so; all zero when not known.
    struct clinux_address peer;      ///< Whom the datagram was for.
};

/// Takes the next entry of the error queue; 1 when there was one, 0 when none, or -1.
int clinux_receive_error(int fd, struct clinux_socket_error *error);
/// Asks for the above.
int clinux_enable_errors(int fd, bool ipv4);

/// Whether datagrams that are longer than the way allows are refused (EMSGSIZE), or are sent in pieces.
int clinux_set_dont_fragment(int fd, bool ipv4, bool on);
/// What the kernel knows of the way of a connected socket: the longest packet; or -1.
int clinux_path_mtu(int fd, bool ipv4);

/// The addresses of this host's interfaces (getifaddrs(3)); how many there are, which may be more than `capacity`.
int clinux_host_addresses(struct clinux_address *addresses, int capacity);
/// A netlink socket that is readable after addresses have changed.
int clinux_address_changes(void);

extern const int CLINUX_TCP_NODELAY, CLINUX_TCP_KEEPIDLE, CLINUX_TCP_KEEPINTVL, CLINUX_TCP_KEEPCNT,
    CLINUX_TCP_USER_TIMEOUT, CLINUX_IPPROTO_TCP, CLINUX_SOL_SOCKET, CLINUX_SO_KEEPALIVE, CLINUX_SO_REUSEADDR,
    CLINUX_SO_ERROR, CLINUX_SO_SNDBUF, CLINUX_SO_RCVBUF, CLINUX_SO_ACCEPTCONN;

#endif
