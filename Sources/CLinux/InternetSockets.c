// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "InternetSockets.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/errqueue.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

union any_address {
    struct sockaddr generic;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t to_system(const struct clinux_address *address, union any_address *system) {
    memset(system, 0, sizeof *system);
    if (address->is_ipv4) {
        system->v4.sin_family = AF_INET;
        system->v4.sin_port = htons(address->port);
        system->v4.sin_addr.s_addr = htonl((uint32_t)address->low);
        return sizeof system->v4;
    }
    uint64_t words[2] = {htobe64(address->high), htobe64(address->low)};
    system->v6.sin6_family = AF_INET6;
    system->v6.sin6_port = htons(address->port);
    memcpy(&system->v6.sin6_addr, words, sizeof words);
    return sizeof system->v6;
}

static bool from_system(const struct sockaddr *system, struct clinux_address *address) {
    memset(address, 0, sizeof *address);
    if (system->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)system;
        address->is_ipv4 = true;
        address->low = 0xffff00000000u | ntohl(v4->sin_addr.s_addr);
        address->port = ntohs(v4->sin_port);
        return true;
    }
    if (system->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)system;
        uint64_t words[2];
        memcpy(words, &v6->sin6_addr, sizeof words);
        address->high = be64toh(words[0]);
        address->low = be64toh(words[1]);
        address->port = ntohs(v6->sin6_port);
        return true;
    }
    return false;
}

int clinux_enter_network(int namespace) { return setns(namespace, CLONE_NEWNET); }
int clinux_new_network(void) { return unshare(CLONE_NEWNET); }

int clinux_internet_socket(bool ipv4, int kind, int protocol) {
    int type = (kind == 1 ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC;
    int fd = socket(ipv4 ? AF_INET : AF_INET6, type, protocol);
    if (fd >= 0 && !ipv4) {
        int on = 1;
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    return fd;
}

int clinux_internet_connect(int fd, const struct clinux_address *to) {
    union any_address system;
    socklen_t length = to_system(to, &system);
    return connect(fd, &system.generic, length);
}

int clinux_internet_bind(int fd, const struct clinux_address *to) {
    union any_address system;
    socklen_t length = to_system(to, &system);
    return bind(fd, &system.generic, length);
}

int clinux_internet_accept(int fd, struct clinux_address *peer) {
    union any_address system = {0};
    socklen_t length = sizeof system;
    int accepted = accept4(fd, &system.generic, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted >= 0) from_system(&system.generic, peer);
    return accepted;
}

int clinux_internet_local_address(int fd, struct clinux_address *address) {
    union any_address system = {0};
    socklen_t length = sizeof system;
    if (getsockname(fd, &system.generic, &length) < 0) return -1;
    from_system(&system.generic, address);
    return 0;
}

int clinux_set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

int clinux_get_option(int fd, int level, int name, int *value) {
    socklen_t length = sizeof *value;
    return getsockopt(fd, level, name, value, &length);
}

int clinux_reset_on_close(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

ssize_t clinux_send_vectors(int fd, struct iovec *vectors, size_t count) {
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

union packet_info {
    char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    struct cmsghdr align;
};

int clinux_enable_local_address(int fd, bool ipv4) {
    int on = 1;
    return ipv4 ? setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on)
                : setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
}

static bool read_local_address(struct msghdr *message, struct clinux_address *local) {
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        union any_address system = {0};
        if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(header), sizeof info);
            system.v4.sin_family = AF_INET;
            system.v4.sin_addr = info.ipi_spec_dst;
            return from_system(&system.generic, local);
        }
        if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(header), sizeof info);
            // Nobody answers from a group's address.
            if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) return false;
            system.v6.sin6_family = AF_INET6;
            system.v6.sin6_addr = info.ipi6_addr;
            return from_system(&system.generic, local);
        }
    }
    return false;
}

static void write_local_address(struct msghdr *message, union packet_info *space, const struct clinux_address *local) {
    union any_address system;
    to_system(local, &system);
    memset(space, 0, sizeof *space);
    message->msg_control = space;
    message->msg_controllen = sizeof *space;
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (local->is_ipv4) {
        struct in_pktinfo info = {.ipi_spec_dst = system.v4.sin_addr};
        *header = (struct cmsghdr){
            .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO, .cmsg_len = CMSG_LEN(sizeof info)};
        memcpy(CMSG_DATA(header), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in6_pktinfo info = {.ipi6_addr = system.v6.sin6_addr};
        *header = (struct cmsghdr){
            .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO, .cmsg_len = CMSG_LEN(sizeof info)};
        memcpy(CMSG_DATA(header), &info, sizeof info);
    }
}

ssize_t clinux_send_vectors_to(int fd, struct iovec *vectors, size_t count, const struct clinux_address *to,
                               const struct clinux_address *from) {
    union any_address system;
    union packet_info info;
    socklen_t length = to_system(to, &system);
    struct msghdr message = {.msg_name = &system, .msg_namelen = length, .msg_iov = vectors, .msg_iovlen = count};
    if (from != NULL) write_local_address(&message, &info, from);
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t clinux_receive_vectors(int fd, struct iovec *vectors, size_t count) {
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    return recvmsg(fd, &message, MSG_DONTWAIT);
}

int clinux_receive_datagrams(int fd, struct clinux_datagram *datagrams, size_t count) {
    struct mmsghdr headers[clinux_datagram_limit];
    struct iovec vectors[clinux_datagram_limit];
    union any_address peers[clinux_datagram_limit];
    union packet_info infos[clinux_datagram_limit];
    if (count > clinux_datagram_limit) count = clinux_datagram_limit;
    memset(headers, 0, sizeof headers[0] * count);
    for (size_t i = 0; i < count; i++) {
        vectors[i] = (struct iovec){.iov_base = datagrams[i].bytes, .iov_len = datagrams[i].length};
        headers[i].msg_hdr = (struct msghdr){
            .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_name = &peers[i], .msg_namelen = sizeof peers[i],
            .msg_control = &infos[i], .msg_controllen = sizeof infos[i]};
    }
    int received = recvmmsg(fd, headers, (unsigned)count, MSG_DONTWAIT, NULL);
    for (int i = 0; i < received; i++) {
        datagrams[i].length = headers[i].msg_len;
        datagrams[i].truncated = (headers[i].msg_hdr.msg_flags & MSG_TRUNC) != 0;
        datagrams[i].has_peer =
            headers[i].msg_hdr.msg_namelen > 0 && from_system(&peers[i].generic, &datagrams[i].peer);
        datagrams[i].has_local = read_local_address(&headers[i].msg_hdr, &datagrams[i].local);
    }
    return received;
}

int clinux_send_datagrams(int fd, struct clinux_datagram *datagrams, size_t count) {
    struct mmsghdr headers[clinux_datagram_limit];
    struct iovec vectors[clinux_datagram_limit];
    union any_address peers[clinux_datagram_limit];
    if (count > clinux_datagram_limit) count = clinux_datagram_limit;
    memset(headers, 0, sizeof headers[0] * count);
    for (size_t i = 0; i < count; i++) {
        vectors[i] = (struct iovec){.iov_base = datagrams[i].bytes, .iov_len = datagrams[i].length};
        headers[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        if (datagrams[i].has_peer) {
            headers[i].msg_hdr.msg_namelen = to_system(&datagrams[i].peer, &peers[i]);
            headers[i].msg_hdr.msg_name = &peers[i];
        }
    }
    return sendmmsg(fd, headers, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int clinux_enable_errors(int fd, bool ipv4) {
    int on = 1;
    return ipv4 ? setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on)
                : setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
}

int clinux_set_dont_fragment(int fd, bool ipv4, bool on) {
    // IPv6 fragments by itself unless it is told not to; IPv4's "don't" leaves the flag unset and lets routers do it.
    int value = ipv4 ? (on ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT) : (on ? IPV6_PMTUDISC_DO : IPV6_PMTUDISC_WANT);
    return ipv4 ? setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, sizeof value)
                : setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &value, sizeof value);
}

int clinux_path_mtu(int fd, bool ipv4) {
    int value = -1;
    socklen_t length = sizeof value;
    int result = ipv4 ? getsockopt(fd, IPPROTO_IP, IP_MTU, &value, &length)
                      : getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &value, &length);
    return result < 0 ? -1 : value;
}

int clinux_receive_error(int fd, struct clinux_socket_error *error) {
    char control[512] __attribute__((aligned(8)));
    char byte;
    union any_address peer = {0};
    struct iovec vector = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_name = &peer, .msg_namelen = sizeof peer,
        .msg_control = control, .msg_controllen = sizeof control};
    memset(error, 0, sizeof *error);
    if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return errno == EAGAIN ? 0 : -1;
    from_system(&peer.generic, &error->peer);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        bool v4 = header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_RECVERR;
        bool v6 = header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_RECVERR;
        if (!v4 && !v6) continue;
        const struct sock_extended_err *extended = (const void *)CMSG_DATA(header);
        error->code = extended->ee_errno;
        error->is_icmp = extended->ee_origin == SO_EE_ORIGIN_ICMP || extended->ee_origin == SO_EE_ORIGIN_ICMP6;
        error->type = extended->ee_type;
        error->icmp_code = extended->ee_code;
        error->information = extended->ee_info;
        if (error->is_icmp) from_system(SO_EE_OFFENDER(extended), &error->offender);
    }
    return 1;
}

int clinux_host_addresses(struct clinux_address *addresses, int capacity) {
    struct ifaddrs *all;
    int count = 0;
    if (getifaddrs(&all) < 0) return -1;
    for (struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        struct clinux_address address;
        if (one->ifa_addr == NULL || !from_system(one->ifa_addr, &address)) continue;
        if (count < capacity) addresses[count] = address;
        count++;
    }
    freeifaddrs(all);
    return count;
}

int clinux_address_changes(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) < 0) return -1;
    return fd;
}

const int CLINUX_TCP_NODELAY = TCP_NODELAY, CLINUX_TCP_KEEPIDLE = TCP_KEEPIDLE, CLINUX_TCP_KEEPINTVL = TCP_KEEPINTVL,
          CLINUX_TCP_KEEPCNT = TCP_KEEPCNT, CLINUX_TCP_USER_TIMEOUT = TCP_USER_TIMEOUT,
          CLINUX_IPPROTO_TCP = IPPROTO_TCP, CLINUX_SOL_SOCKET = SOL_SOCKET, CLINUX_SO_KEEPALIVE = SO_KEEPALIVE,
          CLINUX_SO_REUSEADDR = SO_REUSEADDR, CLINUX_SO_ERROR = SO_ERROR, CLINUX_SO_SNDBUF = SO_SNDBUF,
          CLINUX_SO_RCVBUF = SO_RCVBUF, CLINUX_SO_ACCEPTCONN = SO_ACCEPTCONN;
