"""Encrypted RTP and RTCP (RFC 3711), by libsrtp2.

Each direction of a call has a session of its own with one master key (RFC 4568: each side chooses the key it sends
with). A session is made and freed on Python's side; the media thread uses it in between. Replayed packets are found
by their index, with a window of 128 packets; an index is only taken into the window after the tag was checked.

setup.py links libsrtp2's archive into this module: pjsua2 uses the shared library, starts it, and stops it when it
ends, and neither of the two may pull the other's floor away. Without an archive the shared library is used; without
either, everything is built all the same, ``AVAILABLE`` is False, and asking for a session says so.
"""

from aiphone.errors import MediaError

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from aiphone.native.alloc cimport counted_calloc, counted_free
from aiphone.native.platform cimport load_acquire, store_release

cdef extern from *:
    """
    #ifdef AIPHONE_WITH_SRTP
    #include <pthread.h>
    #include <srtp2/srtp.h>

    static const int with_srtp = 1;

    static int session_status(srtp_err_status_t status) {
        switch (status) {
        case srtp_err_status_ok: return 0;
        case srtp_err_status_replay_fail:
        case srtp_err_status_replay_old:
        case srtp_err_status_pkt_idx_old: return -2;
        case srtp_err_status_auth_fail:
        case srtp_err_status_parse_err:
        case srtp_err_status_bad_param: return -1;
        default: return -3;
        }
    }

    /* Where the shared library is used, somebody else may have started it: then this fails and does no harm. */
    static void start(void) { (void)srtp_init(); }
    static void library_start(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, start);
    }

    /* The tag of SRTCP has 80 bits whatever the one of SRTP has (RFC 4568 section 6.2). */
    static void *session_new(unsigned char *key, int short_tag, int sending) {
        srtp_t session = NULL;
        srtp_policy_t policy;
        memset(&policy, 0, sizeof policy);
        if (short_tag)
            srtp_crypto_policy_set_aes_cm_128_hmac_sha1_32(&policy.rtp);
        else
            srtp_crypto_policy_set_aes_cm_128_hmac_sha1_80(&policy.rtp);
        srtp_crypto_policy_set_aes_cm_128_hmac_sha1_80(&policy.rtcp);
        policy.ssrc.type = sending ? ssrc_any_outbound : ssrc_any_inbound;
        policy.key = key;
        policy.window_size = 128;
        return srtp_create(&session, &policy) == srtp_err_status_ok ? session : NULL;
    }
    static void session_free(void *session) { if (session != NULL) srtp_dealloc((srtp_t)session); }

    #define DEFINE_WORK(name, work)                                                \\
    static int name(void *session, unsigned char *packet, int n) {                 \\
        int length = n;                                                            \\
        int status = session_status(work((srtp_t)session, packet, &length));       \\
        return status == 0 ? length : status;                                      \\
    }
    DEFINE_WORK(session_protect, srtp_protect)
    DEFINE_WORK(session_unprotect, srtp_unprotect)
    DEFINE_WORK(session_protect_rtcp, srtp_protect_rtcp)
    DEFINE_WORK(session_unprotect_rtcp, srtp_unprotect_rtcp)

    #else

    static const int with_srtp = 0;
    static void library_start(void) {}
    static void *session_new(unsigned char *key, int short_tag, int sending) { return (void *)0; }
    static void session_free(void *session) {}
    static int session_protect(void *session, unsigned char *packet, int n) { return -3; }
    static int session_unprotect(void *session, unsigned char *packet, int n) { return -3; }
    static int session_protect_rtcp(void *session, unsigned char *packet, int n) { return -3; }
    static int session_unprotect_rtcp(void *session, unsigned char *packet, int n) { return -3; }
    #endif
    """
    const int with_srtp
    void library_start() noexcept nogil
    void* session_new(unsigned char* key, int short_tag, int sending) noexcept nogil
    void session_free(void* session) noexcept nogil
    int session_protect(void* session, unsigned char* packet, int n) noexcept nogil
    int session_unprotect(void* session, unsigned char* packet, int n) noexcept nogil
    int session_protect_rtcp(void* session, unsigned char* packet, int n) noexcept nogil
    int session_unprotect_rtcp(void* session, unsigned char* packet, int n) noexcept nogil

AVAILABLE = bool(with_srtp)
"""Whether the engine was built with libsrtp2."""

KEY_BYTES = 30
"""Master key (16) and master salt (14) in a row, as in an ``a=crypto`` line."""

SUITES = {"AES_CM_128_HMAC_SHA1_80": 0, "AES_CM_128_HMAC_SHA1_32": 1}


cdef int crypto_protect(Crypto* c, unsigned char* packet, int n) noexcept nogil:
    return session_protect(c.session, packet, n)


cdef int crypto_unprotect(Crypto* c, unsigned char* packet, int n) noexcept nogil:
    return session_unprotect(c.session, packet, n)


cdef int crypto_protect_rtcp(Crypto* c, unsigned char* packet, int n) noexcept nogil:
    return session_protect_rtcp(c.session, packet, n)


cdef int crypto_unprotect_rtcp(Crypto* c, unsigned char* packet, int n) noexcept nogil:
    return session_unprotect_rtcp(c.session, packet, n)


cdef void crypto_release(Crypto* c) noexcept nogil:
    if c is not NULL:
        store_release(&c.released, 1)


cdef class NativeCrypto:
    """One direction of one call, ``sending`` or receiving. One thread at a time.

    ``key`` is master key and salt, ``suite`` a name of RFC 4568 section 6.2. MediaError when the suite is not
    supported, the key has another length, or the engine was built without libsrtp2.
    """

    def __cinit__(self, bytes key not None, str suite not None, *, bint sending):
        cdef unsigned char copy[30]
        if not with_srtp:
            raise MediaError("this build cannot encrypt calls; install libsrtp2's headers and build aiphone again")
        if suite not in SUITES:
            raise MediaError(f"the media engine does not know the SRTP suite {suite!r}; offer {' or '.join(SUITES)}")
        if len(key) != KEY_BYTES:
            raise MediaError(f"an SRTP key for {suite} has {KEY_BYTES} bytes, this one has {len(key)}")
        library_start()
        self._crypto = <Crypto*>counted_calloc(sizeof(Crypto))
        if self._crypto is NULL:
            raise MemoryError("no memory for an encrypted call")
        memcpy(copy, <const unsigned char*>key, 30)
        self._crypto.session = session_new(copy, SUITES[suite], sending)
        memset(copy, 0, 30)
        if self._crypto.session is NULL:
            raise MediaError("libsrtp2 does not work on this machine; calls cannot be encrypted, install it anew")

    def __dealloc__(self):
        # The engine keeps a reference for as long as the media thread has it.
        if self._crypto is not NULL:
            session_free(self._crypto.session)
            counted_free(self._crypto)

    @property
    def released(self):
        """True once the media thread has let go of it. Any thread."""
        return bool(load_acquire(&self._crypto.released))

    def apply(self, bytes packet not None, *, bint rtcp=False, bint sending):
        """One packet protected or unprotected; None when it is forged, ``b""`` when it was replayed. For tests."""
        cdef unsigned int room[512]
        cdef unsigned char* data = <unsigned char*>room
        cdef int n = <int>len(packet)
        if n + CRYPTO_TRAILER > <int>sizeof(room):
            raise ValueError("the packet is longer than any that the engine sends")
        memcpy(data, <const unsigned char*>packet, n)
        if sending:
            n = crypto_protect_rtcp(self._crypto, data, n) if rtcp else crypto_protect(self._crypto, data, n)
        else:
            n = crypto_unprotect_rtcp(self._crypto, data, n) if rtcp else crypto_unprotect(self._crypto, data, n)
        if n == CRYPTO_REPLAYED:
            return b""
        return data[:n] if n >= 0 else None
