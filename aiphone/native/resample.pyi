"""Streaming sample rate conversion for speech: a polyphase FIR filter with a Kaiser window.

Flat within 0.05 dB up to 0.425 of the narrower rate; aliases, and images of that band, at -80 dB or less. Group delay
when the rate falls to 8 kHz 4 ms, to 16 kHz 2 ms; when it rises from 8 kHz 2.2 ms.
"""

import numpy as np
import numpy.typing as npt

class StreamResampler:
    """Converts a stream of int16 mono PCM from one sample rate to another, block by block.

    Rates are in Hz, 8000 to 48000; MediaError for a pair that is not supported. Any sizes of blocks give the same
    samples, whichever kernel the processor has. One thread at a time; the GIL is released for long blocks.
    """

    rate_in: int
    rate_out: int

    def __init__(self, rate_in: int, rate_out: int) -> None: ...
    @property
    def delay(self) -> float:
        """Group delay in seconds, a whole number of output samples; 0.0 when the rates are equal."""

    def process(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """The next block (contiguous, any length); returns the output that it completes."""

    def flush(self) -> npt.NDArray[np.int16]:
        """End of the stream: what the delay still holds back. The resampler is then as new.

        With the delay cut from its start, all output together is as long as the input.
        """

    def reset(self) -> None:
        """Forget the stream so far."""
