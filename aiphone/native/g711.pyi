"""ITU-T G.711: companded 8-bit telephony audio, mu-law (PCMU) and A-law (PCMA).

Any thread; the GIL is released. PCM is int16 mono, contiguous.
"""

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

def decode_ulaw(data: Buffer, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
    """PCMU to linear PCM, one sample for each byte; into ``out`` if given, which must be as long and not overlap."""

def decode_alaw(data: Buffer, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
    """PCMA to linear PCM, one sample for each byte; into ``out`` if given, which must be as long and not overlap."""

def encode_ulaw(pcm: npt.NDArray[np.int16]) -> bytes:
    """Linear PCM to PCMU, one byte for each sample."""

def encode_alaw(pcm: npt.NDArray[np.int16]) -> bytes:
    """Linear PCM to PCMA, one byte for each sample."""
