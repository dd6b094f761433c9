// SPDX-License-Identifier: Apache-2.0
//
// Both ends of what goes over a network, for tests; the bytes are the same for the same number.
//
//   traffic serve TCP UDP             answers at two ports what follows
//   traffic down HOST PORT BYTES      takes so many bytes and looks at each
//   traffic up HOST PORT BYTES        sends so many, says that these were all, and then hears whether they were right
//   traffic udp HOST PORT COUNT SIZE  sends datagrams without a pause; all come back, right, within 20 seconds
//   traffic calls HOST PORT COUNT     so many connections one after another, of one byte each
//   traffic ask SERVER NAME 4|6 [tcp] asks a name server, and prints the addresses that it says
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { block = 1 << 16 };
static unsigned char space[block];

static void fail(const char *what) {
    fprintf(stderr, "traffic: %s: %s\n", what, errno ? strerror(errno) : "not as it was sent");
    exit(1);
}

// The byte at a place of the stream: no two blocks are alike.
static unsigned char byte_at(uint64_t place) { return (unsigned char)((place * 0x9E3779B97F4A7C15u) >> 56); }

static void fill(uint64_t place, size_t count) {
    for (size_t i = 0; i < count; i++) space[i] = byte_at(place + i);
}

static int is_right(uint64_t place, const unsigned char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != byte_at(place + i)) return 0;
    return 1;
}

static int dial(const char *host, const char *port, int type) {
    struct addrinfo hints = {.ai_socktype = type}, *found;
    int code = getaddrinfo(host, port, &hints, &found), fd;
    if (code != 0) {
        fprintf(stderr, "traffic: %s: %s\n", host, gai_strerror(code));
        exit(1);
    }
    fd = socket(found->ai_family, type, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0) fail("connect");
    struct timeval patience = {60, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    freeaddrinfo(found);
    return fd;
}

static void put(int fd, const void *bytes, size_t count) {
    for (size_t done = 0; done < count;) {
        ssize_t sent = send(fd, (const char *)bytes + done, count - done, MSG_NOSIGNAL);
        if (sent < 0) fail("send");
        done += (size_t)sent;
    }
}

// --- the serving end ---

struct stream {
    int fd, is_sending;
    uint64_t place, end;
    int is_wrong;
    // A request is nine bytes: 'd' and how many are wanted, or 'u' and what follows is to be looked at.
    unsigned char request[9];
    size_t requested;
};

static uint64_t number(const unsigned char *bytes) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | bytes[i];
    return value;
}

static int is_over(struct stream *stream, int poller) {
    if (!stream->is_sending) {
        ssize_t count = recv(stream->fd, space, block, MSG_DONTWAIT);
        if (count < 0) return errno != EAGAIN;
        if (count == 0) {
            if (stream->requested < 9) return 1;
            // Its end of the stream is closed, ours is open.
            const char *verdict = !stream->is_wrong && stream->place == stream->end ? "right" : "wrong";
            (void)!send(stream->fd, verdict, 5, MSG_NOSIGNAL);
            return 1;
        }
        ssize_t at = 0;
        while (stream->requested < 9 && at < count) stream->request[stream->requested++] = space[at++];
        if (stream->requested == 9 && at > 0) stream->end = number(stream->request + 1);
        if (stream->requested == 9 && stream->request[0] == 'd') {
            stream->is_sending = 1;
            struct epoll_event event = {.events = EPOLLOUT, .data.ptr = stream};
            epoll_ctl(poller, EPOLL_CTL_MOD, stream->fd, &event);
        } else {
            if (!is_right(stream->place, space + at, (size_t)(count - at))) stream->is_wrong = 1;
            stream->place += (uint64_t)(count - at);
        }
        return 0;
    }
    uint64_t left = stream->end - stream->place;
    size_t count = left < block ? (size_t)left : block;
    fill(stream->place, count);
    ssize_t sent = send(stream->fd, space, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno != EAGAIN;
    stream->place += (uint64_t)sent;
    return stream->place == stream->end;
}

static int listening(const char *port, int type) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET6, type | SOCK_NONBLOCK, 0), on = 1, off = 0, size = 1 << 20;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (type == SOCK_STREAM && listen(fd, 4096) < 0) fail("listen");
    return fd;
}

_Noreturn static void serve(const char *tcp, const char *udp) {
    int listener = listening(tcp, SOCK_STREAM), datagrams = listening(udp, SOCK_DGRAM), poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener}, events[64];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &datagrams;
    epoll_ctl(poller, EPOLL_CTL_ADD, datagrams, &event);
    puts("serving");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    struct stream *stream = calloc(1, sizeof *stream);
                    if (stream == NULL) fail("memory");
                    stream->fd = fd;
                    event = (struct epoll_event){.events = EPOLLIN, .data.ptr = stream};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
            } else if (events[i].data.ptr == &datagrams) {
                struct sockaddr_storage peer;
                socklen_t length = sizeof peer;
                ssize_t size;
                while ((size = recvfrom(datagrams, space, block, 0, (struct sockaddr *)&peer, &length)) >= 0) {
                    (void)!sendto(datagrams, space, (size_t)size, 0, (struct sockaddr *)&peer, length);
                    length = sizeof peer;
                }
            } else {
                struct stream *stream = events[i].data.ptr;
                if (!is_over(stream, poller)) continue;
                close(stream->fd);
                free(stream);
            }
        }
    }
}

// --- the calling end ---

static int request(const char *host, const char *port, char kind, uint64_t bytes) {
    unsigned char line[9] = {(unsigned char)kind};
    int fd = dial(host, port, SOCK_STREAM);
    for (int i = 0; i < 8; i++) line[1 + i] = (unsigned char)(bytes >> (56 - 8 * i));
    put(fd, line, sizeof line);
    return fd;
}

static void down(const char *host, const char *port, uint64_t bytes) {
    int fd = request(host, port, 'd', bytes);
    uint64_t place = 0;
    ssize_t count;
    while ((count = recv(fd, space, block, 0)) > 0) {
        errno = 0;
        if (!is_right(place, space, (size_t)count)) fail("down");
        place += (uint64_t)count;
    }
    if (count < 0 || place != bytes) fail("down");
    close(fd);
}

static void up(const char *host, const char *port, uint64_t bytes) {
    int fd = request(host, port, 'u', bytes);
    for (uint64_t place = 0; place < bytes;) {
        size_t count = bytes - place < block ? (size_t)(bytes - place) : block;
        fill(place, count);
        put(fd, space, count);
        place += count;
    }
    char verdict[6] = {0};
    if (shutdown(fd, SHUT_WR) < 0) fail("shutdown");
    size_t got = 0;
    ssize_t count;
    while (got < 5 && (count = recv(fd, verdict + got, 5 - got, 0)) > 0) got += (size_t)count;
    errno = 0;
    if (strcmp(verdict, "right") != 0) fail("up");
    close(fd);
}

// Datagrams there and back, a few at once: of more, queues on the way may drop some, as with any UDP.
static void burst(const char *host, const char *port, int count, size_t size) {
    enum { together = 8 };
    int fd = dial(host, port, SOCK_DGRAM);
    char *seen = calloc((size_t)count, 1);
    struct timeval patience = {20, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (seen == NULL || size < 4 || size > block) fail("size");
    for (int sent = 0, back = 0; back < count; back++) {
        for (; sent < count && sent < back / together * together + together; sent++) {
            fill((uint64_t)sent * 7919, size);
            memcpy(space, &sent, 4);
            if (send(fd, space, size, 0) != (ssize_t)size) fail("send");
        }
        int i;
        ssize_t got = recv(fd, space, block, 0);
        if (got < 0) {
            fprintf(stderr, "traffic: %d of %d datagrams came back\n", back, count);
            exit(1);
        }
        errno = 0;
        memcpy(&i, space, 4);
        if (got != (ssize_t)size || i < 0 || i >= count || seen[i]++) fail("udp");
        if (!is_right((uint64_t)i * 7919 + 4, space + 4, size - 4)) fail("udp");
    }
    free(seen);
}

// RFC 1035 §4: one question; of the answers, the addresses.
static int ask(const char *server, const char *name, int is_ipv6, int over_tcp) {
    unsigned char message[514] = {0, 0, 0x12, 0x34, 1, 0, 0, 1}, *end = message + 14;
    for (const char *label = name; *label;) {
        size_t length = strcspn(label, ".");
        if (length == 0 || length > 63 || end + length > message + 280) fail("name");
        *end++ = (unsigned char)length;
        memcpy(end, label, length);
        end += length;
        label += length + (label[length] == '.');
    }
    memcpy(end, (unsigned char[]){0, 0, is_ipv6 ? 28 : 1, 0, 1}, 5);
    size_t length = (size_t)(end + 5 - message - 2), got = 0;
    message[0] = (unsigned char)(length >> 8);
    message[1] = (unsigned char)length;
    int fd = dial(server, "53", over_tcp ? SOCK_STREAM : SOCK_DGRAM);
    put(fd, over_tcp ? message : message + 2, over_tcp ? length + 2 : length);
    unsigned char *answer = space;
    if (over_tcp) {
        // The question is all that there is: the answer comes to who has closed its end.
        shutdown(fd, SHUT_WR);
        ssize_t count;
        while ((count = recv(fd, space + got, block - got, 0)) > 0) got += (size_t)count;
        answer += 2;
        got = got < 2 ? 0 : got - 2;
    } else {
        ssize_t count = recv(fd, space, block, 0);
        got = count < 0 ? 0 : (size_t)count;
    }
    errno = 0;
    if (got < length || memcmp(answer, message + 2, 2) != 0 || !(answer[2] & 0x80)) fail("ask");
    size_t at = length;
    int answers = answer[6] << 8 | answer[7];
    for (int i = 0; i < answers; i++) {
        while (at < got && answer[at] != 0 && answer[at] < 0xC0) at += answer[at] + 1u;
        at += at < got && answer[at] >= 0xC0 ? 2 : 1;
        if (at + 10 > got) fail("ask");
        size_t type = (size_t)(answer[at] << 8 | answer[at + 1]), size = (size_t)(answer[at + 8] << 8 | answer[at + 9]);
        char text[INET6_ADDRSTRLEN];
        at += 10;
        if (at + size > got) fail("ask");
        if (type == 1 && size == 4) puts(inet_ntop(AF_INET, answer + at, text, sizeof text));
        if (type == 28 && size == 16) puts(inet_ntop(AF_INET6, answer + at, text, sizeof text));
        at += size;
    }
    return answer[3] & 15;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (count == 4 && !strcmp(what, "serve")) serve(words[2], words[3]);
    if (count == 5 && !strcmp(what, "down")) return down(words[2], words[3], strtoull(words[4], NULL, 10)), 0;
    if (count == 5 && !strcmp(what, "up")) return up(words[2], words[3], strtoull(words[4], NULL, 10)), 0;
    if (count == 6 && !strcmp(what, "udp"))
        return burst(words[2], words[3], atoi(words[4]), (size_t)atoi(words[5])), 0;
    if (count == 5 && !strcmp(what, "calls")) {
        for (int i = atoi(words[4]); i > 0; i--) down(words[2], words[3], 1);
        return 0;
    }
    if (count >= 5 && !strcmp(what, "ask"))
        return ask(words[2], words[3], words[4][0] == '6', count == 6 && !strcmp(words[5], "tcp"));
    fprintf(stderr, "usage: traffic serve|down|up|udp|calls|ask …\n");
    return 2;
}
