# Declarations of platform.h and datagram.h; what each does is said there.

from libc.stdint cimport int64_t, uint8_t

cdef extern from "platform.h" nogil:
    int64_t load_acquire(const int64_t* p)
    void store_release(int64_t* p, int64_t v)
    int64_t load_relaxed(const int64_t* p)
    void store_relaxed(int64_t* p, int64_t v)
    int64_t fetch_add(int64_t* p, int64_t v)
    int64_t exchange(int64_t* p, int64_t v)
    void count(int64_t* p, int64_t n)
    double load_real(const double* p)
    void store_real(double* p, double v)

    void* aligned_new(size_t size)

    double clock_now()
    double wall_now()
    void sleep_until(double when)

    ctypedef struct pthread_t:
        pass
    int raise_priority()
    int thread_start(pthread_t* thread, void* (*body)(void*) noexcept nogil, void* argument)
    void thread_name(const char* name)
    void thread_join(pthread_t thread)

    ctypedef struct Wake:
        int read_fd
        int write_fd
    int wake_open(Wake* w)
    void wake_close(Wake* w)
    void wake_signal(Wake* w)
    void wake_clear(Wake* w)
    int wake_wait(Wake* w, double seconds)

cdef extern from "datagram.h" nogil:
    ctypedef struct Address:
        int family
        int port
        unsigned char host[16]
    int address_set(Address* a, int socket_is_v6, const unsigned char* host, int host_len, int port)
    bint address_same_host(const Address* a, const Address* b)
    bint address_equal(const Address* a, const Address* b)
    void address_set_port(Address* a, int port)
    bint address_is_any(const Address* a)

    enum:
        BATCH
        MTU
    ctypedef struct Batch:
        unsigned char data[16][1536]
        int len[16]
        double at[16]
        Address source[16]
    int datagram_prepare(int fd)
    int socket_is_v6(int fd)
    void batch_init(Batch* b)
    int batch_receive(Batch* b, int fd, double now, double wall_minus_now)
    bint datagram_send(int fd, const unsigned char* data, int len, const Address* to)
