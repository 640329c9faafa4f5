/* Addresses, and datagrams in batches. On Linux one recvmmsg reads all that waits on a socket; elsewhere (or with
 * AIPHONE_PORTABLE_IO) one recvmsg after the other. The kernel's own receive timestamp says when a packet arrived,
 * so that it does not matter when we come to read it. */
#ifndef AIPHONE_DATAGRAM_H
#define AIPHONE_DATAGRAM_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "platform.h"

#if defined(__linux__) && !defined(AIPHONE_PORTABLE_IO)
#define AIPHONE_RECVMMSG 1
#endif

/* ---------------------------------------------------------------------------------------------- addresses */

/* An address as plain values, and as the socket call wants it. family 0: none. */
typedef struct {
    struct sockaddr_storage raw;
    socklen_t raw_len;
    int family; /* 4 or 6; an IPv4-mapped IPv6 address is 4 */
    int port;
    unsigned char host[16];
} Address;

static inline void address_parse(Address *a) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    memset(a->host, 0, sizeof a->host);
    a->family = 0;
    a->port = 0;
    if (a->raw.ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&a->raw;
        memcpy(a->host, &in4->sin_addr, 4);
        a->family = 4;
        a->port = ntohs(in4->sin_port);
    } else if (a->raw.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->raw;
        const unsigned char *bytes = (const unsigned char *)&in6->sin6_addr;
        a->port = ntohs(in6->sin6_port);
        if (memcmp(bytes, mapped, 12) == 0) {
            memcpy(a->host, bytes + 12, 4);
            a->family = 4;
        } else {
            memcpy(a->host, bytes, 16);
            a->family = 6;
        }
    }
}

/* host is 4 or 16 bytes; an IPv4 host on an IPv6 socket is written as a mapped address. 0, or -1. */
static inline int address_set(Address *a, int socket_is_v6, const unsigned char *host, int host_len, int port) {
    memset(a, 0, sizeof *a);
    if (!socket_is_v6) {
        struct sockaddr_in *in4 = (struct sockaddr_in *)&a->raw;
        if (host_len != 4) return -1;
        in4->sin_family = AF_INET;
        memcpy(&in4->sin_addr, host, 4);
        in4->sin_port = htons((uint16_t)port);
        a->raw_len = sizeof *in4;
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a->raw;
        unsigned char *bytes = (unsigned char *)&in6->sin6_addr;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        if (host_len == 4) {
            bytes[10] = bytes[11] = 0xff;
            memcpy(bytes + 12, host, 4);
        } else if (host_len == 16) {
            memcpy(bytes, host, 16);
        } else {
            return -1;
        }
        a->raw_len = sizeof *in6;
    }
    address_parse(a);
    return 0;
}

static inline int address_same_host(const Address *a, const Address *b) {
    return a->family != 0 && a->family == b->family && memcmp(a->host, b->host, 16) == 0;
}

static inline int address_equal(const Address *a, const Address *b) {
    return a->port == b->port && address_same_host(a, b);
}

static inline void address_set_port(Address *a, int port) {
    if (a->raw.ss_family == AF_INET) ((struct sockaddr_in *)&a->raw)->sin_port = htons((uint16_t)port);
    if (a->raw.ss_family == AF_INET6) ((struct sockaddr_in6 *)&a->raw)->sin6_port = htons((uint16_t)port);
    a->port = port;
}

/* 0.0.0.0 or ::, the old way to say "hold" (RFC 3264 section 8.4). */
static inline int address_is_any(const Address *a) {
    static const unsigned char zero[16] = {0};
    return memcmp(a->host, zero, 16) == 0;
}

/* ---------------------------------------------------------------------------------------------- datagrams */

enum { BATCH = 16, MTU = 1536 };

typedef struct {
    unsigned char data[BATCH][MTU];
    int len[BATCH]; /* -1: longer than MTU */
    double at[BATCH]; /* arrival, monotonic seconds */
    Address source[BATCH];
    struct iovec iov[BATCH];
    unsigned char control[BATCH][64];
#ifdef AIPHONE_RECVMMSG
    struct mmsghdr message[BATCH];
#else
    struct msghdr message[BATCH];
#endif
} Batch;

/* Non-blocking, with receive timestamps and the telephone's traffic class (expedited forwarding, RFC 3246). */
static inline int datagram_prepare(int fd) {
    int on = 1, tos = 0xb8, flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -1;
#ifdef AIPHONE_RECVMMSG
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
#else
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on);
#endif
    setsockopt(fd, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
#ifdef IPV6_TCLASS
    setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof tos);
#endif
    return 0;
}

static inline int socket_is_v6(int fd) {
    struct sockaddr_storage local;
    socklen_t len = sizeof local;
    if (getsockname(fd, (struct sockaddr *)&local, &len) != 0) return -1;
    return local.ss_family == AF_INET6;
}

/* The kernel's wall-clock stamp on the monotonic clock; `now` when there is none or it makes no sense (the wall
 * clock was set in between). */
static inline double arrival_of(struct msghdr *m, double now, double wall_minus_now) {
    struct cmsghdr *c;
    for (c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        double at = 0;
        if (c->cmsg_level != SOL_SOCKET) continue;
#ifdef AIPHONE_RECVMMSG
        if (c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            at = (double)t.tv_sec + (double)t.tv_nsec * 1e-9 - wall_minus_now;
        }
#else
        if (c->cmsg_type == SCM_TIMESTAMP) {
            struct timeval t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            at = (double)t.tv_sec + (double)t.tv_usec * 1e-6 - wall_minus_now;
        }
#endif
        if (at > now - 10.0 && at <= now) return at;
    }
    return now;
}

static inline void batch_rearm(Batch *b, int i) {
    struct msghdr *m;
#ifdef AIPHONE_RECVMMSG
    m = &b->message[i].msg_hdr;
#else
    m = &b->message[i];
#endif
    m->msg_name = &b->source[i].raw;
    m->msg_namelen = sizeof b->source[i].raw;
    m->msg_iov = &b->iov[i];
    m->msg_iovlen = 1;
    m->msg_control = b->control[i];
    m->msg_controllen = sizeof b->control[i];
    m->msg_flags = 0;
}

static inline void batch_init(Batch *b) {
    int i;
    for (i = 0; i < BATCH; i++) {
        b->iov[i].iov_base = b->data[i];
        b->iov[i].iov_len = MTU;
        batch_rearm(b, i);
    }
}

static inline void batch_take(Batch *b, int i, struct msghdr *m, int len, double now, double wall_minus_now) {
    b->len[i] = (m->msg_flags & MSG_TRUNC) ? -1 : len;
    b->source[i].raw_len = m->msg_namelen;
    address_parse(&b->source[i]);
    /* wall_minus_now of 0: the clock is injected, packets arrive now. */
    b->at[i] = wall_minus_now != 0.0 ? arrival_of(m, now, wall_minus_now) : now;
    batch_rearm(b, i);
}

/* Read up to BATCH datagrams that wait on fd; how many. */
static inline int batch_receive(Batch *b, int fd, double now, double wall_minus_now) {
    int i, n;
#ifdef AIPHONE_RECVMMSG
    n = recvmmsg(fd, b->message, BATCH, MSG_DONTWAIT, NULL);
    for (i = 0; i < n; i++)
        batch_take(b, i, &b->message[i].msg_hdr, (int)b->message[i].msg_len, now, wall_minus_now);
#else
    for (n = 0; n < BATCH; n++) {
        ssize_t len = recvmsg(fd, &b->message[n], MSG_DONTWAIT);
        if (len < 0) break;
        i = n;
        batch_take(b, i, &b->message[i], (int)len, now, wall_minus_now);
    }
#endif
    return n > 0 ? n : 0;
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* 1 when the kernel took it. A full queue or an unreachable peer is the network's business: it is counted. */
static inline int datagram_send(int fd, const unsigned char *data, int len, const Address *to) {
    return sendto(fd, data, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to->raw,
                  to->raw_len) == (ssize_t)len;
}

#endif
