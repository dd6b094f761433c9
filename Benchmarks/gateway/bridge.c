// SPDX-License-Identifier: Apache-2.0
//
// What stands in for a machine's monitor, so that no virtual machine is measured with the network:
//
//   bridge records TAP CONTROL ATTACH   attaches to a fabric by the JSON line ATTACH, and carries records between the TAP
//                                and the socket that it names (Docs/NET-SOCKET.md), segmentation offload included
//   bridge bad TAP CONTROL ATTACH SEED LOST SWAPPED DOUBLED MICROSECONDS [plain]
//                                the same over a link that loses records, delays them, in order, by up to so much, doubles
//                                some and lets some overtake others: so many of a thousand each way; without offload
//                                where it is plain. Ends with the device, and says how many it carried, lost and so on
//   bridge ask CONTROL LINE      prints what the fabric answers
//   bridge stream TAP SOCKET     carries frames between the TAP and passt's socket (four bytes of length, big-endian)
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { slot = 70000, batch = 32 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int tap(const char *name, int with_header, int with_offload) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), size = 12;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (with_header ? IFF_VNET_HDR : 0)};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail("tap");
    if (with_header && (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ||
                        ioctl(fd, TUNSETOFFLOAD, with_offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0) < 0))
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

// Sends the fabric a line, and leaves its answer in `reply`; the connection stays open.
static char reply[1 << 18];

static void ask(const char *control, const char *line) {
    int lease = unix_socket(control, SOCK_STREAM);
    if (dprintf(lease, "%s\n", line) < 0) fail("ask");
    size_t got = 0;
    while (!memchr(reply, '\n', got)) {
        ssize_t count = read(lease, reply + got, sizeof reply - 1 - got);
        if (count <= 0) fail("ask");
        got += (size_t)count;
    }
}

// The machine's socket, and the device for it, when the driver runs.
static int attached(const char *control, const char *attach, const char *name, int with_offload, int *device) {
    ask(control, attach);
    char *path = strstr(reply, "\"socket\"");
    if (path == NULL) {
        fprintf(stderr, "%s", reply);
        exit(1);
    }
    path = strchr(path + 8, '"') + 1;
    *strchr(path, '"') = 0;
    int socket = unix_socket(path, SOCK_SEQPACKET);
    *device = tap(name, 1, with_offload);
    // Message 1: the driver runs, with checksums and segments of both families, or nothing of the kind.
    unsigned char hello[16] = {1, 1, 1, 0, with_offload ? 0x82 : 0, with_offload ? 1 : 0};
    if (write(socket, hello, sizeof hello) != sizeof hello) fail("hello");
    puts("up");
    fflush(stdout);
    return socket;
}

static int records(const char *name, const char *control, const char *attach) {
    static char space[batch][slot];
    int device, socket = attached(control, attach, name, 1, &device);
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

// One direction of a bad link. Records wait in a ring until they are due.
enum { waiting = 256 };
struct way {
    int from, to;
    unsigned head, tail;
    struct {
        int64_t due;
        size_t length;
        char *bytes;
    } ring[waiting];
    uint64_t carried, lost, swapped, doubled;
};

static struct {
    uint64_t state, lost, swapped, doubled;
    int64_t delay;
} badness;

static uint64_t below(uint64_t limit) { // Knuth's linear congruential generator
    badness.state = badness.state * 6364136223846793005u + 1442695040888963407u;
    return (badness.state >> 33) % limit;
}

static int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static void push(struct way *way, const char *bytes, size_t length, int64_t due) {
    unsigned at = way->tail++ % waiting;
    if (way->ring[at].bytes == NULL) way->ring[at].bytes = malloc(slot);
    memcpy(way->ring[at].bytes, bytes, length);
    way->ring[at].length = length;
    way->ring[at].due = due;
}

// Returns 0 when the device or the fabric is gone.
static int take(struct way *way, int64_t now) {
    static char space[slot];
    while (way->tail - way->head < waiting - 2) {
        ssize_t count = read(way->from, space, slot);
        if (count < 0 && errno == EAGAIN) return 1;
        if (count <= 0) return 0;
        if (count < 26) continue;
        if (below(1000) < badness.lost) {
            way->lost++;
            continue;
        }
        int64_t due = now + (badness.delay ? badness.delay / 2 + (int64_t)below((uint64_t)badness.delay / 2 + 1) : 0);
        unsigned last = (way->tail - 1) % waiting;
        if (way->tail != way->head && way->ring[last].due > due) due = way->ring[last].due;
        push(way, space, (size_t)count, due);
        if (way->tail - way->head > 1 && below(1000) < badness.swapped) {
            unsigned here = (way->tail - 1) % waiting;
            char *bytes = way->ring[last].bytes;
            size_t length = way->ring[last].length;
            way->ring[last].bytes = way->ring[here].bytes;
            way->ring[last].length = way->ring[here].length;
            way->ring[here].bytes = bytes;
            way->ring[here].length = length;
            way->swapped++;
        }
        if (below(1000) < badness.doubled) {
            push(way, space, (size_t)count, due);
            way->doubled++;
        }
    }
    return 1;
}

// Sends what is due. Returns when more is, -1 for never, and -2 when the other side is gone.
static int64_t give(struct way *way, int64_t now) {
    while (way->head != way->tail) {
        unsigned at = way->head % waiting;
        if (way->ring[at].due > now) return way->ring[at].due;
        ssize_t count = write(way->to, way->ring[at].bytes, way->ring[at].length);
        // A socket without room is tried again in a millisecond.
        if (count < 0 && (errno == EAGAIN || errno == ENOBUFS)) return now + 1000;
        // A device that is being taken away says so when it is read.
        if (count < 0 && errno != EIO && errno != EINVAL) return -2;
        way->carried++;
        way->head++;
    }
    return -1;
}

static int bad(char **words) {
    static struct way ways[2];
    badness.state = strtoull(words[5], NULL, 0);
    badness.lost = strtoull(words[6], NULL, 0);
    badness.swapped = strtoull(words[7], NULL, 0);
    badness.doubled = strtoull(words[8], NULL, 0);
    badness.delay = strtoll(words[9], NULL, 0);
    int device, socket = attached(words[3], words[4], words[2], words[10] == NULL, &device);
    fcntl(socket, F_SETFL, O_NONBLOCK);
    ways[0].from = ways[1].to = device;
    ways[1].from = ways[0].to = socket;
    while (1) {
        int64_t now = microseconds(), next = INT64_MAX;
        for (int i = 0; i < 2; i++) {
            int64_t due = give(&ways[i], now);
            if (due == -2) return 1;
            if (due >= 0 && due < next) next = due;
        }
        struct pollfd watched[2];
        for (int i = 0; i < 2; i++)
            watched[i] = (struct pollfd){ways[i].from, ways[i].tail - ways[i].head < waiting - 2 ? POLLIN : 0, 0};
        int64_t left = next == INT64_MAX ? 3600000000 : next > now ? next - now : 0;
        struct timespec time = {left / 1000000, left % 1000000 * 1000};
        if (ppoll(watched, 2, &time, NULL) < 0) fail("poll");
        now = microseconds();
        int is_there = 1;
        for (int i = 0; i < 2; i++) is_there &= !watched[i].revents || take(&ways[i], now);
        if (is_there) continue;
        printf("%llu %llu %llu %llu\n", (unsigned long long)(ways[0].carried + ways[1].carried),
               (unsigned long long)(ways[0].lost + ways[1].lost), (unsigned long long)(ways[0].swapped + ways[1].swapped),
               (unsigned long long)(ways[0].doubled + ways[1].doubled));
        return 0;
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
    int socket = unix_socket(path, SOCK_STREAM), device = tap(name, 0, 0);
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
    if ((count == 10 || count == 11) && !strcmp(words[1], "bad")) return bad(words);
    if (count == 4 && !strcmp(words[1], "ask")) return ask(words[2], words[3]), fputs(reply, stdout) < 0;
    if (count == 4 && !strcmp(words[1], "stream")) return stream(words[2], words[3]);
    fprintf(stderr, "usage: bridge records|bad|ask|stream …\n");
    return 2;
}
