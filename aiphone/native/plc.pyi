"""Packet loss concealment after ITU-T G.711 Appendix I."""

import numpy as np
import numpy.typing as npt

class Concealer:
    """Conceals lost frames in a stream of int16 mono PCM. ``rate`` is 8000 or 16000 Hz, else MediaError.

    One thread at a time; the GIL is released while it works.
    """

    rate: int

    def __init__(self, rate: int) -> None: ...
    @property
    def delay(self) -> int:
        """How much the output lags the input, in samples (3.75 ms)."""

    def good(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """A frame that arrived, of any length; returns as many samples, ``delay`` late."""

    def conceal(self, n: int) -> npt.NDArray[np.int16]:
        """A frame of ``n`` samples that did not arrive; returns what to play instead."""

    def bridge(self, n: int, future: npt.NDArray[np.int16], remaining: int) -> npt.NDArray[np.int16]:
        """As ``conceal``, when the next frame is at hand, ``remaining`` samples after the start of this one."""

    def reset(self) -> None:
        """Forget the stream so far."""
