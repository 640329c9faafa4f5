"""Silero voice activity detection, for all calls in one run of the network.

The model (versions 5 and 6, https://github.com/snakers4/silero-vad) takes 512 samples at 16 kHz together with
the 64 samples before them and a recurrent state, and gives the probability that they hold speech. Nothing in
it mixes the rows of a batch, so windows of different calls go through it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from aiphone.errors import ModelError
from aiphone.events import INTERNAL_RATE

WINDOW_SAMPLES = 512
"""Samples in a window at 16 kHz: 32 ms."""

CONTEXT_SAMPLES = 64
"""Samples before the window that the network wants to see as well."""

_HIDDEN = 128

Float32 = npt.NDArray[np.float32]


class VadState:
    """What the network remembers of one call. Owned by the thread that runs the network."""

    __slots__ = ("context", "hidden")

    def __init__(self) -> None:
        self.hidden: Float32 = np.zeros((2, _HIDDEN), np.float32)
        self.context: Float32 = np.zeros(CONTEXT_SAMPLES, np.float32)

    def reset(self) -> None:
        """Forget everything, as at the start of a call."""
        self.hidden[:] = 0
        self.context[:] = 0


class SileroVad:
    """The network. One thread at a time; states belong to the caller.

    ``threads`` is the size of onnxruntime's pool; one is right, because a run takes a fraction of a millisecond.
    Raises ModelError when the file is missing or is not Silero VAD version 5 or later.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        if not path.is_file():
            raise ModelError(f"there is no voice activity model at {path}; fetch it with 'models pull silero-vad'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's errors have no common base but Exception.
            raise ModelError(f"{path} cannot be loaded as a voice activity model; fetch it again") from error
        names = {item.name for item in session.get_inputs()}
        if not {"input", "state", "sr"} <= names:
            raise ModelError(f"{path} is not Silero VAD version 5 or later; fetch 'silero-vad' again")
        self._session = session
        self._rate = np.array(INTERNAL_RATE, np.int64)

    def new_state(self) -> VadState:
        """The state of a call that begins."""
        return VadState()

    def probabilities(self, windows: Float32, states: Sequence[VadState]) -> Float32:
        """Probability of speech in each window.

        ``windows`` is float32 [B, 512] in -1..1, row i the next window of the call that ``states[i]`` belongs
        to; the states are carried on in place. Returns float32 [B].
        """
        if windows.shape != (len(states), WINDOW_SAMPLES):
            raise ValueError(f"windows of shape {windows.shape} for {len(states)} states")
        batch = np.empty((len(states), CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
        batch[:, CONTEXT_SAMPLES:] = windows
        hidden = np.empty((2, len(states), _HIDDEN), np.float32)
        for row, state in enumerate(states):
            batch[row, :CONTEXT_SAMPLES] = state.context
            hidden[:, row] = state.hidden
        output, hidden = self._session.run(["output", "stateN"], {"input": batch, "state": hidden, "sr": self._rate})
        for row, state in enumerate(states):
            state.context[:] = windows[row, -CONTEXT_SAMPLES:]
            state.hidden[:] = hidden[:, row]
        result: Float32 = output[:, 0]
        return result
