/* What the media thread needs from the operating system: atomics, the clock, an absolute sleep, a thread with a
 * raised priority, and a descriptor that wakes another thread. No Python in here.
 *
 * Atomics are the compiler's __atomic builtins (the C11 memory model) because they work on plain fields of
 * structs that Cython declares. Counters have one writer; readers on other threads load them relaxed. */
#ifndef AIPHONE_PLATFORM_H
#define AIPHONE_PLATFORM_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#endif
#ifdef __APPLE__
#include <mach/mach.h>
#include <mach/mach_time.h>
#include <mach/thread_policy.h>
#endif

/* ------------------------------------------------------------------------------------------------ atomics */

static inline int64_t load_acquire(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int64_t load_relaxed(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline int64_t fetch_add(int64_t *p, int64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
static inline int64_t exchange(int64_t *p, int64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }

/* A counter with one writer needs no locked instruction. */
static inline void count(int64_t *p, int64_t n) { store_relaxed(p, load_relaxed(p) + n); }

static inline double load_real(const double *p) {
    double v;
    __atomic_load(p, &v, __ATOMIC_RELAXED);
    return v;
}
static inline void store_real(double *p, double v) { __atomic_store(p, &v, __ATOMIC_RELAXED); }

/* ------------------------------------------------------------------------------------------------- memory */

/* `size` bytes, a power of 2, that begin at a multiple of it: on large pages where the system has them. NULL when there
 * is no memory; free() gives it back. */
static inline void *aligned_new(size_t size) {
    void *p = NULL;
    if (posix_memalign(&p, size, size) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

/* -------------------------------------------------------------------------------------------------- clock */

/* Seconds on the clock that Python's time.monotonic() reads. */
static inline double clock_now(void) {
#ifdef __APPLE__
    return (double)clock_gettime_nsec_np(CLOCK_UPTIME_RAW) * 1e-9;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
#endif
}

/* Seconds of the wall clock: for NTP fields and for the kernel's receive timestamps, never for durations. */
static inline double wall_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Sleep until an absolute time; returns at once when it has passed. */
static inline void sleep_until(double when) {
#ifdef __APPLE__
    mach_timebase_info_data_t base;
    mach_timebase_info(&base);
    mach_wait_until((uint64_t)(when * 1e9 * (double)base.denom / (double)base.numer));
#else
    struct timespec t;
    t.tv_sec = (time_t)when;
    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
#endif
}

/* ------------------------------------------------------------------------------------------------- thread */

enum { PRIORITY_NORMAL = 0, PRIORITY_NICE = 1, PRIORITY_REALTIME = 2 };

/* Raise the calling thread's priority as far as the system allows; which of the above was reached. */
static inline int raise_priority(void) {
#ifdef __APPLE__
    mach_timebase_info_data_t base;
    mach_timebase_info(&base);
    double ticks = (double)base.denom / (double)base.numer; /* mach ticks in a nanosecond */
    thread_time_constraint_policy_data_t policy;
    policy.period = (uint32_t)(20e6 * ticks);
    policy.computation = (uint32_t)(2e6 * ticks);
    policy.constraint = (uint32_t)(5e6 * ticks);
    policy.preemptible = 1;
    if (thread_policy_set(pthread_mach_thread_np(pthread_self()), THREAD_TIME_CONSTRAINT_POLICY,
                          (thread_policy_t)&policy, THREAD_TIME_CONSTRAINT_POLICY_COUNT) == KERN_SUCCESS)
        return PRIORITY_REALTIME;
    return PRIORITY_NORMAL;
#else
    struct sched_param param;
    param.sched_priority = sched_get_priority_min(SCHED_RR) + 10;
    if (pthread_setschedparam(pthread_self(), SCHED_RR, &param) == 0) return PRIORITY_REALTIME;
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); /* an ordinary thread may wake 50 us late by default */
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), -11) == 0) return PRIORITY_NICE;
#endif
    return PRIORITY_NORMAL;
#endif
}

/* Start a thread that takes no signals: those are for Python's main thread. 0, or an errno. */
static inline int thread_start(pthread_t *thread, void *(*body)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* What the calling thread is called in lists of threads; at most 15 characters. */
static inline void thread_name(const char *name) {
#ifdef __APPLE__
    pthread_setname_np(name);
#elif defined(__linux__)
    prctl(PR_SET_NAME, (unsigned long)name, 0, 0, 0);
#endif
}

static inline void thread_join(pthread_t thread) { pthread_join(thread, NULL); }

/* --------------------------------------------------------------------------------------------------- wake */

/* A descriptor that another thread can poll. On Linux both ends are one eventfd. */
typedef struct {
    int read_fd;
    int write_fd;
} Wake;

static inline int wake_open(Wake *w) {
#ifdef __linux__
    w->read_fd = w->write_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return w->read_fd < 0 ? -1 : 0;
#else
    int fds[2], i;
    if (pipe(fds) != 0) return -1;
    for (i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    w->read_fd = fds[0];
    w->write_fd = fds[1];
    return 0;
#endif
}

static inline void wake_close(Wake *w) {
    if (w->read_fd >= 0) close(w->read_fd);
    if (w->write_fd >= 0 && w->write_fd != w->read_fd) close(w->write_fd);
    w->read_fd = w->write_fd = -1;
}

static inline void wake_signal(Wake *w) {
    uint64_t one = 1;
    ssize_t ignored = write(w->write_fd, &one, sizeof one);
    (void)ignored;
}

static inline void wake_clear(Wake *w) {
    uint64_t buffer[8];
    ssize_t n;
    do {
        n = read(w->read_fd, buffer, sizeof buffer);
    } while (n == (ssize_t)sizeof buffer);
}

/* Wait until signalled or until `seconds` have passed; 1 when signalled. */
static inline int wake_wait(Wake *w, double seconds) {
    struct pollfd p;
    p.fd = w->read_fd;
    p.events = POLLIN;
    p.revents = 0;
    return poll(&p, 1, seconds < 0 ? -1 : (int)(seconds * 1000.0 + 0.999)) > 0;
}

#endif
