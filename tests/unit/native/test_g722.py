"""G.722: wideband sound survives, and any bytes are decoded."""

import numpy as np
import pytest

from aiphone.native import g722

pytestmark = pytest.mark.skipif(not g722.available(), reason="libspandsp is not installed (Debian: libspandsp2)")

DELAY = 22
"""Samples at 16 kHz: the two quadrature mirror filters (ITU-T G.722 section 2.1)."""


@pytest.mark.parametrize("hz", [300.0, 1000.0, 3000.0, 5000.0, 6500.0])
def test_tones_of_the_whole_band(hz: float) -> None:
    t = np.arange(16000) / 16000
    pcm = (8000 * np.sin(2 * np.pi * hz * t)).astype(np.int16)
    both = g722.G722()
    coded = both.encode(pcm)
    assert len(coded) == len(pcm) // 2
    out = both.decode(coded).astype(float)
    error = out[DELAY + 1600 :] - pcm[1600:-DELAY]
    assert 10 * np.log10(np.mean(pcm.astype(float) ** 2) / np.mean(error**2)) > (14 if hz > 4000 else 22)


def test_any_bytes() -> None:
    rng = np.random.default_rng(5)
    both = g722.G722()
    for n in (0, 1, 79, 160, 480, 1500):
        assert len(both.decode(rng.bytes(n))) == 2 * n
    with pytest.raises(ValueError, match="even"):
        both.encode(np.zeros(3, np.int16))
