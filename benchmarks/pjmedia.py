"""pjmedia's jitter buffer and packet loss concealment, the real ones, out of pjsua2's own extension module.

The module is a shared library that exports pjmedia's functions; they are called by ctypes. Where it does not
(another build), ``load`` returns None and the benchmarks say that the peer is missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

NORMAL = 1


class Text(ctypes.Structure):
    """pj_str_t."""

    _fields_ = (("ptr", ctypes.c_char_p), ("slen", ctypes.c_ssize_t))


@dataclass(slots=True)
class Library:
    """pjlib, ready, with a pool factory."""

    native: Any
    factory: Any = field(default_factory=lambda: ctypes.create_string_buffer(1 << 16))

    def pool(self, name: bytes) -> ctypes.c_void_p:
        """A memory pool, kept for the life of the process."""
        self.native.pj_pool_create.restype = ctypes.c_void_p
        found = self.native.pj_pool_create(self.factory, name, ctypes.c_size_t(4000), ctypes.c_size_t(4000), None)
        return ctypes.c_void_p(found)


_loaded: list[Library | None] = []


def load() -> Library | None:
    """The library, or None."""
    if not _loaded:
        _loaded.append(_load())
    return _loaded[0]


def _load() -> Library | None:
    spec = importlib.util.find_spec("_pjsua2")
    if spec is None or spec.origin is None:
        return None
    native = ctypes.CDLL(spec.origin)
    if not hasattr(native, "pjmedia_jbuf_create") or not hasattr(native, "pjmedia_plc_create"):
        return None
    native.pj_log_set_level(0)
    if native.pj_init() != 0:
        return None
    library = Library(native)
    native.pj_caching_pool_init(library.factory, None, ctypes.c_size_t(1 << 20))
    return library


class JitterBuffer:
    """pjmedia_jbuf, adaptive, with its default (progressive) discard; frames are sequence numbers."""

    def __init__(self, library: Library, initial: int, least: int, most: int, capacity: int = 50) -> None:
        """The numbers are frames of 20 ms."""
        self.native = library.native
        self.handle = ctypes.c_void_p()
        name = Text(b"bench", 5)
        self.pool = library.pool(b"jb")
        size = ctypes.c_uint(4)
        made = self.native.pjmedia_jbuf_create(
            self.pool, ctypes.byref(name), size, ctypes.c_uint(20), ctypes.c_uint(capacity), ctypes.byref(self.handle)
        )
        if made != 0:
            raise RuntimeError(f"pjmedia_jbuf_create returned {made}")
        adapt = self.native.pjmedia_jbuf_set_adaptive
        if adapt(self.handle, ctypes.c_uint(initial), ctypes.c_uint(least), ctypes.c_uint(most)) != 0:
            raise RuntimeError("pjmedia_jbuf_set_adaptive refused its arguments")
        self.out = ctypes.c_int32()
        self.kind = ctypes.c_char()
        self.dropped = ctypes.c_int()

    def put(self, seq: int) -> None:
        """A packet arrived."""
        value = ctypes.c_int32(seq)
        self.native.pjmedia_jbuf_put_frame3(
            self.handle,
            ctypes.byref(value),
            ctypes.c_size_t(4),
            0,
            ctypes.c_int(seq),
            ctypes.c_uint32(seq * 160),
            ctypes.byref(self.dropped),
        )

    def get(self) -> int | None:
        """20 ms have passed: the sequence number to play, or None."""
        self.native.pjmedia_jbuf_get_frame(self.handle, ctypes.byref(self.out), ctypes.byref(self.kind))
        return self.out.value if ord(self.kind.value) == NORMAL else None

    def fix(self, frames: int) -> None:
        """Fixed mode."""
        self.native.pjmedia_jbuf_set_fixed(self.handle, ctypes.c_uint(frames))

    def keep_all(self) -> None:
        """Never discard to shorten the delay."""
        self.native.pjmedia_jbuf_set_discard(self.handle, 0)

    def close(self) -> None:
        """Give it back."""
        self.native.pjmedia_jbuf_destroy(self.handle)
        self.native.pj_pool_release(self.pool)


class Concealer:
    """pjmedia_plc at 8 kHz in frames of 20 ms (it works by WSOLA, as pjsua2 does for G.711)."""

    def __init__(self, library: Library, frame: int = 160) -> None:
        self.native = library.native
        self.handle = ctypes.c_void_p()
        self.pool = library.pool(b"plc")
        made = self.native.pjmedia_plc_create(
            self.pool, ctypes.c_uint(8000), ctypes.c_uint(frame), 0, ctypes.byref(self.handle)
        )
        if made != 0:
            raise RuntimeError(f"pjmedia_plc_create returned {made}")
        self.frame = frame

    def good(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """A frame that came; it is changed where it is blended with what was made up before."""
        out = pcm.copy()
        self.native.pjmedia_plc_save(self.handle, ctypes.c_void_p(out.ctypes.data))
        return out

    def conceal(self) -> npt.NDArray[np.int16]:
        """A frame in place of one that did not."""
        out = np.zeros(self.frame, np.int16)
        self.native.pjmedia_plc_generate(self.handle, ctypes.c_void_p(out.ctypes.data))
        return out
