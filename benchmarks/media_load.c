/* The other side of the media benchmarks, without Python:
 *
 *   media_load load SECONDS      one telephone for each line "LOCAL REMOTE" (ports on loopback) on standard input: a
 *                                packet of G.711 every 20 ms, spread over the tick, and everything that comes back is
 *                                counted, checked for gaps, and its lateness taken from the kernel's stamps
 *   media_load bare SECONDS      a receive/send loop with no processing for lines of the same form: what the
 *                                kernel alone costs a program that is built like the media engine
 *   media_load sleep SECONDS     the same lines; only sends, from one thread that sleeps to absolute times
 *
 * A line of results on standard output: sent received lost p50 p99 max (lateness in ms, over all packets). The
 * lateness of a packet is how much later than its place in the most punctual grid of its stream it was sent: the
 * smallest of (stamp - number * 20 ms) of a stream is 0. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { SLOTS = 10, BATCH = 16, MTU = 1536 };

typedef struct {
    int fd, started;
    uint16_t seq, last;
    int64_t number, received, lost;
    double earliest;
} Call;

static struct mmsghdr message[BATCH];
static struct iovec iov[BATCH];
static unsigned char data[BATCH][MTU], control[BATCH][64];
static Call *calls;
static int count, capacity;
static float *late; /* milliseconds; its stream beside it */
static int32_t *stream;
static int64_t samples, room;
static double origin; /* near the times at hand, so that a float can hold the difference */

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_until(double when) {
    struct timespec t;
    t.tv_sec = (time_t)when;
    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

static void open_calls(void) {
    int local, remote, on = 1, size = 1 << 18;
    while (scanf("%d %d", &local, &remote) == 2) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (count == capacity) calls = realloc(calls, sizeof(Call) * (size_t)(capacity = capacity ? 2 * capacity : 64));
        Call *c = &calls[count++];
        memset(c, 0, sizeof *c);
        c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(c->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        a.sin_port = htons((uint16_t)local);
        if (bind(c->fd, (struct sockaddr *)&a, sizeof a) != 0) perror("bind"), exit(2);
        a.sin_port = htons((uint16_t)remote);
        if (connect(c->fd, (struct sockaddr *)&a, sizeof a) != 0) perror("connect"), exit(2);
    }
}

static double stamp_of(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
        }
    return 0;
}

static int receive(Call *c) {
    for (int i = 0; i < BATCH; i++) {
        iov[i].iov_base = data[i];
        iov[i].iov_len = MTU;
        memset(&message[i].msg_hdr, 0, sizeof message[i].msg_hdr);
        message[i].msg_hdr.msg_iov = &iov[i];
        message[i].msg_hdr.msg_iovlen = 1;
        message[i].msg_hdr.msg_control = control[i];
        message[i].msg_hdr.msg_controllen = sizeof control[i];
    }
    return recvmmsg(c->fd, message, BATCH, MSG_DONTWAIT, NULL);
}

static void note(Call *c, double wall_minus_now) {
    int n;
    do {
        n = receive(c);
        for (int i = 0; i < n; i++) {
            if (message[i].msg_len < 12 || (data[i][1] & 0x7f) > 34) continue;
            uint16_t seq = (uint16_t)(data[i][2] << 8 | data[i][3]);
            int16_t step = (int16_t)(uint16_t)(seq - c->last);
            if (!c->started) step = 1;
            double at = stamp_of(&message[i].msg_hdr) - wall_minus_now;
            c->received++;
            if (step <= 0) {
                c->lost--; /* it was only late */
                continue;
            }
            c->lost += step - 1;
            c->number += c->started ? step : 0;
            c->last = seq;
            double place = at - 0.02 * (double)c->number;
            if (!c->started || place < c->earliest) c->earliest = place;
            c->started = 1;
            if (samples == room) {
                room = room ? 2 * room : 1 << 16;
                late = realloc(late, sizeof *late * (size_t)room);
                stream = realloc(stream, sizeof *stream * (size_t)room);
            }
            if (c->received > 50) { /* a second to settle */
                late[samples] = (float)((place - origin) * 1000.0);
                stream[samples] = (int32_t)(c - calls);
                samples++;
            }
        }
    } while (n == BATCH);
}

static void build(Call *c, unsigned char *packet, int number) {
    uint32_t timestamp = 160u * c->seq;
    packet[0] = 0x80;
    packet[1] = 0;
    packet[2] = (unsigned char)(c->seq >> 8);
    packet[3] = (unsigned char)c->seq;
    for (int i = 0; i < 4; i++) packet[4 + i] = (unsigned char)(timestamp >> (24 - 8 * i));
    for (int i = 0; i < 4; i++) packet[8 + i] = (unsigned char)((uint32_t)(number + 77) >> (24 - 8 * i));
    for (int i = 0; i < 160; i++) packet[12 + i] = (unsigned char)(0x30 + (i * 7 + c->seq) % 64 + (i & 1) * 0x80);
    c->seq++;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    unsigned char packet[172];
    double seconds = argc > 2 ? atof(argv[2]) : 0, start;
    int load = argc > 1 && !strcmp(argv[1], "load"), bare = argc > 1 && !strcmp(argv[1], "bare");
    int64_t sent = 0, received = 0, lost = 0;
    struct sched_param param = {.sched_priority = 11};
    open_calls();
    sched_setscheduler(0, SCHED_RR, &param); /* as the engine does; refused, it stays as it is */
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    fprintf(stderr, "ready\n");
    origin = start = now(CLOCK_MONOTONIC) + 0.01;
    for (int64_t slot = 0; slot * 0.002 < seconds; slot++) {
        sleep_until(start + (double)slot * 0.002);
        double wall_minus_now = now(CLOCK_REALTIME) - now(CLOCK_MONOTONIC);
        for (int i = (int)(slot % SLOTS); i < count; i += SLOTS) {
            Call *c = &calls[i];
            if (bare) {
                int n = receive(c);
                received += n > 0 ? n : 0;
                if (n > 0) memcpy(packet, data[0], sizeof packet);
            } else {
                build(c, packet, i);
            }
            sent += send(c->fd, packet, sizeof packet, MSG_DONTWAIT) == sizeof packet;
            if (load) note(c, wall_minus_now);
        }
    }
    for (int i = 0; i < count && load; i++) received += calls[i].received, lost += calls[i].lost;
    for (int64_t i = 0; i < samples; i++)
        late[i] -= (float)((calls[stream[i]].earliest - origin) * 1000.0);
    qsort(late, (size_t)samples, sizeof *late, by_value);
    printf("%lld %lld %lld %.3f %.3f %.3f\n", (long long)sent, (long long)received, (long long)lost,
           samples ? late[samples / 2] : 0, samples ? late[samples * 99 / 100] : 0, samples ? late[samples - 1] : 0);
    return 0;
}
