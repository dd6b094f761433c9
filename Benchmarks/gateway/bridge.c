// SPDX-License-Identifier: Apache-2.0
//
// What stands in for a machine's monitor, so that no virtual machine is measured with the network:
//
//   bridge records TAP CONTROL ATTACH   attaches to a fabric by the JSON line ATTACH, and carries records between the TAP
//                                and the socket that it names (Docs/NET-SOCKET.md), segmentation offload included
//   bridge stream TAP SOCKET     carries frames between the TAP and passt's socket (four bytes of length, big-endian)
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { slot = 70000, batch = 32 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int tap(const char *name, int with_header) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), size = 12;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (with_header ? IFF_VNET_HDR : 0)};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail("tap");
    if (with_header && (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ||
                        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0))
        fail("tap offload");
    return fd;
}

static int unix_socket(const char *path, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), size = 4 << 20;
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail(path);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static int records(const char *name, const char *control, const char *attach) {
    static char space[batch][slot], reply[1 << 16];
    int lease = unix_socket(control, SOCK_STREAM);
    if (dprintf(lease, "%s\n", attach) < 0) fail("attach");
    size_t got = 0;
    while (!memchr(reply, '\n', got)) {
        ssize_t count = read(lease, reply + got, sizeof reply - 1 - got);
        if (count <= 0) fail("attach");
        got += (size_t)count;
    }
    char *path = strstr(reply, "\"socket\"");
    if (path == NULL) {
        fprintf(stderr, "%s", reply);
        return 1;
    }
    path = strchr(path + 8, '"') + 1;
    *strchr(path, '"') = 0;
    int socket = unix_socket(path, SOCK_SEQPACKET), device = tap(name, 1);
    // Message 1: the driver runs, with checksums and segments of both families.
    unsigned char hello[16] = {1, 1, 1, 0, 0x82, 1};
    if (write(socket, hello, sizeof hello) != sizeof hello) fail("hello");
    puts("up");
    fflush(stdout);
    struct iovec vectors[batch];
    struct mmsghdr messages[batch];
    int held = 0, first = 0;
    size_t lengths[batch];
    static char inward[batch][slot];
    while (1) {
        struct pollfd watched[2] = {{device, held ? 0 : POLLIN, 0}, {socket, POLLIN | (held ? POLLOUT : 0), 0}};
        if (poll(watched, 2, -1) < 0) fail("poll");
        if (!held && watched[0].revents) {
            first = 0;
            for (; held < batch; held++) {
                ssize_t count = read(device, space[held], slot);
                if (count <= 0) break;
                lengths[held] = (size_t)count;
            }
        }
        if (held) {
            for (int i = 0; i < held; i++) {
                vectors[i] = (struct iovec){space[first + i], lengths[first + i]};
                messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
            }
            int sent = sendmmsg(socket, messages, (unsigned)held, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent > 0) {
                first += sent;
                held -= sent;
            } else if (errno != EAGAIN) {
                return 0;
            }
        }
        if (watched[1].revents & ~POLLOUT) {
            for (int i = 0; i < batch; i++) {
                vectors[i] = (struct iovec){inward[i], slot};
                messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
            }
            int received = recvmmsg(socket, messages, batch, MSG_DONTWAIT, NULL);
            if (received == 0) return 0;
            for (int i = 0; i < received; i++) {
                if (messages[i].msg_len == 0) return 0;
                if (messages[i].msg_len >= 26) (void)!write(device, inward[i], messages[i].msg_len);
            }
        }
    }
}

static void write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0) {
            if (errno != EAGAIN) fail("write");
            struct pollfd room = {fd, POLLOUT, 0};
            poll(&room, 1, -1);
            continue;
        }
        bytes += written;
        count -= (size_t)written;
    }
}

static int stream(const char *name, const char *path) {
    static char outward[16 * slot], inward[1 << 20];
    int socket = unix_socket(path, SOCK_STREAM), device = tap(name, 0);
    size_t have = 0;
    puts("up");
    fflush(stdout);
    while (1) {
        struct pollfd watched[2] = {{device, POLLIN, 0}, {socket, POLLIN, 0}};
        if (poll(watched, 2, -1) < 0) fail("poll");
        size_t filled = 0;
        for (int i = 0; i < 16; i++) {
            ssize_t count = read(device, outward + filled + 4, slot - 4);
            if (count <= 0) break;
            *(uint32_t *)(void *)(outward + filled) = htonl((uint32_t)count);
            filled += 4 + (size_t)count;
        }
        if (filled) write_all(socket, outward, filled);
        if (!watched[1].revents) continue;
        ssize_t count = read(socket, inward + have, sizeof inward - have);
        if (count <= 0) return 0;
        have += (size_t)count;
        size_t at = 0;
        while (have - at >= 4) {
            uint32_t length;
            memcpy(&length, inward + at, 4);
            length = ntohl(length);
            if (have - at < 4 + length) break;
            (void)!write(device, inward + at + 4, length);
            at += 4 + length;
        }
        memmove(inward, inward + at, have - at);
        have -= at;
    }
}

int main(int count, char **words) {
    if (count == 5 && !strcmp(words[1], "records")) return records(words[2], words[3], words[4]);
    if (count == 4 && !strcmp(words[1], "stream")) return stream(words[2], words[3]);
    fprintf(stderr, "usage: bridge records|stream …\n");
    return 2;
}
