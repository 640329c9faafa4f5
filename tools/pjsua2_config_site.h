/*
 * pjlib/include/pj/config_site.h for the pjsua2 that aiphone runs on; tools/build_pjsua2.py puts it in place.
 *
 * pjsip allocates one table for each of these limits when it starts, so they are upper bounds, not reservations
 * of sockets or threads. Changing a value here changes the wheel's version, and the next build replaces it.
 */
#ifndef AIPHONE_CONFIG_SITE_H
#define AIPHONE_CONFIG_SITE_H

/* ---- I/O: epoll has no FD_SETSIZE; select() (used where there is no epoll) stops at 1024 descriptors,
 * and each call of pjsua holds two. */
#if defined(__linux__)
#   define PJ_IOQUEUE_MAX_HANDLES       4096
#   define PJSUA_MAX_CALLS              1024
#else
#   define PJ_IOQUEUE_MAX_HANDLES       1024
#   define PJSUA_MAX_CALLS              480
#endif
#define PJ_HAS_IPV6                     1

/* ---- SIP: 500 calls held and 50 new ones a second leave a transaction behind for 32 s each (64*T1,
 * RFC 3261 section 17); a flood of INVITEs from strangers must not use them up either. */
#define PJSIP_MAX_TSX_COUNT             16383
#define PJSIP_MAX_DIALOG_COUNT          4095
/* Several codecs, SRTP keys and a Record-Route of each proxy on the way do not fit in the 4000 bytes of old. */
#define PJSIP_MAX_PKT_LEN               8000
/* A burst of INVITEs waits in the socket instead of being dropped; the kernel caps it at its own limit. */
#define PJSIP_UDP_SO_RCVBUF_SIZE        (4*1024*1024)
#define PJSUA_MAX_ACC                   256

/* ---- Media is not pjsua's: its bridge has ports for the calls and plays or records nothing. */
#define PJMEDIA_HAS_VIDEO               0
#define PJSUA_MAX_CONF_PORTS            2048
#define PJSUA_MAX_PLAYERS               4
#define PJSUA_MAX_RECORDERS             4
/* State the RTCP port in the SDP even when it is the next one: aiphone replaces both (RFC 3605). */
#define PJMEDIA_ADVERTISE_RTCP          1

/* ---- A wrong argument is an error code for Python, never an abort() of the process. */
#define PJ_ENABLE_EXTRA_CHECK           1
#define PJ_TERM_HAS_COLOR               0

#endif
