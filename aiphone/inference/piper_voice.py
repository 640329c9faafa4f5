"""Piper in the process: text to 16 kHz PCM, the first piece of it early.

Piper's own runtime computes a sentence as a whole, so a long one starts late. A Piper voice (VITS) has three
blocks, and only the first needs the whole sentence:

    phonemes -> [text: encoder, durations] -> latent frames -> [flow] -> [decoder] -> samples
                 14 % of the work              256 samples each   16 %       70 %

Flow and decoder are convolutions: a frame depends on no more than 32 neighbours in the flow and on 10 in the decoder,
or 16 where the voice is of high quality (``_reach`` finds out). So the graph is cut in three (see ``onnx_split``) and
the last two run over pieces of the sentence with that margin, which gives the same samples. The first piece is small,
later ones are larger, because every border costs its margins twice.

A voice whose graph is of another kind is used whole: correct, but a sentence at a time.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import piper
from piper.config import PiperConfig

from aiphone.errors import ModelError, SpeechError
from aiphone.events import INTERNAL_RATE, Pcm
from aiphone.inference.onnx_split import Graph, entrances, part, read_graph
from aiphone.inference.voice import Piece, always
from aiphone.native.resample import StreamResampler

_log = logging.getLogger(__name__)

_FLOW, _DECODER = "/flow/", "/dec/"
_FLOW_MARGIN = 32  # frames on each side
_MOST_MARGIN = 16  # the same in the decoder, of the largest published architecture
_INAUDIBLE = 1e-6  # of full scale, -120 dB: hardly more than the rounding, and every frame of a margin costs time
_FIRST_FRAMES = 32  # 0.37 s at 22,050 Hz: longer than the time to compute the next piece
_GROWTH = 4
_MOST_FRAMES = 128  # bounds how long one piece keeps a worker from others, and its memory: 0.6 MB a frame
_FLOW_FRAMES = 512  # at once at least, after the first piece: a border costs more here, and memory little

_LEVEL_DBFS = -22.0
"""RMS of speech that a voice is set to. Telephone speech is sent at about -20 dBm0 on average (ITU-T P.56)."""
_PEAK = 0.9

Float32 = npt.NDArray[np.float32]


def piece_plan(frames: int) -> list[tuple[int, int]]:
    """The pieces [first, end) that a sentence of this many latent frames is computed in."""
    plan: list[tuple[int, int]] = []
    first, size = 0, _FIRST_FRAMES
    while first < frames:
        end = min(first + size, frames)
        if frames - end < size // 2:
            end = frames  # a rest that is not worth its margins
        plan.append((first, end))
        first, size = end, min(size * _GROWTH, _MOST_FRAMES)
    return plan


class PiperVoice:
    """One voice, loaded once. ``synthesise`` may run in several threads at a time.

    ``path`` is the .onnx file, with its .onnx.json beside it. ``threads`` is the size of onnxruntime's pools;
    ``speed`` 1.0 is the voice's own, 1.2 is faster. ``noise`` False makes the voice deterministic (tests).
    Raises ModelError when a file is missing, damaged or no Piper voice.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        threads: int = 2,
        speed: float = 1.0,
        speaker: int | None = None,
        noise: bool = True,
    ) -> None:
        self.name = name or path.stem
        config = _read_config(path)
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ModelError(f"the voice {path} cannot be read ({error.strerror}); fetch it again") from error
        self._rate: int = config.sample_rate
        self.language: str = config.espeak_voice
        self._scales = np.array(
            [
                config.noise_scale if noise else 0.0,
                config.length_scale / speed,
                config.noise_w_scale if noise else 0.0,
            ],
            np.float32,
        )
        self._speaker = config.default_speaker_id if speaker is None else speaker
        self._many_speakers = config.num_speakers > 1
        self._model = _load(path, model, threads, config.hop_length)
        # Piper's own class is used for its phonemiser alone; it wants a session and never runs it.
        self._piper = piper.PiperVoice(session=None, config=config)
        self._lock = threading.Lock()  # Piper makes helpers of some languages on first use
        self._gain = 1.0
        self._gain = self._measure_gain()

    @property
    def in_pieces(self) -> bool:
        """True when the voice could be cut, so that long sentences start early."""
        return isinstance(self._model, _CutModel)

    def at_speed(self, speed: float, name: str) -> PiperVoice:
        """The same voice, faster than its own pace for a ``speed`` above 1, under another name. Shares the model.

        Piper divides the length of each phoneme by ``speed`` and rounds up, so that a sentence is shortened by less.
        """
        other = copy.copy(self)
        other.name = name
        other._scales = np.divide(self._scales, [1.0, speed, 1.0], dtype=np.float32)
        return other

    def synthesise(self, text: str, wanted: Callable[[], bool] = always) -> Iterator[Piece]:
        """int16 at 16 kHz, piece by piece; see ``Voice``. Any thread.

        Raises SpeechError when the model cannot speak the text.
        """
        resampler = StreamResampler(self._rate, INTERNAL_RATE)
        # The filter's delay is cut from the start, so that audio is as long as what the voice made.
        skip = round(resampler.delay * INTERNAL_RATE)
        for samples, last in self.samples(text):
            pcm = np.clip(samples * (self._gain * 32767.0), -32768, 32767).astype(np.int16)
            out: Pcm = resampler.process(pcm)
            if last:
                out = np.concatenate((out, resampler.flush()))
            yield Piece(out[skip:], last)
            skip = 0
            if not wanted():
                return

    def samples(self, text: str) -> Iterator[tuple[Float32, bool]]:
        """The voice's own output: float32 at ``rate``, not scaled, and whether it is the last piece. Any thread."""
        sentences = self.phoneme_ids(text)
        for number, ids in enumerate(sentences, start=1):
            feed: dict[str, Any] = {
                "input": np.array([ids], np.int64),
                "input_lengths": np.array([len(ids)], np.int64),
                "scales": self._scales,
            }
            if self._many_speakers:
                feed["sid"] = np.array([self._speaker], np.int64)
            try:
                for piece, last in self._model.run(feed):
                    yield piece, last and number == len(sentences)
            except Exception as error:
                # onnxruntime's errors have no common base but Exception.
                raise SpeechError(f"the voice {self.name} failed at {text[:40]!r}; use another voice") from error

    @property
    def rate(self) -> int:
        """Sample rate (Hz) of ``samples``."""
        return self._rate

    def phoneme_ids(self, text: str) -> list[list[int]]:
        """Phoneme ids of each sentence. Any thread; espeak-ng itself is one at a time."""
        with self._lock:
            sentences = self._piper.phonemize(text)
        return [self._piper.phonemes_to_ids(phonemes) for phonemes in sentences if phonemes]

    def _measure_gain(self) -> float:
        """What brings this voice to the telephone's level. Warms the sessions up as well.

        Piper scales every sentence to full range, which needs the whole sentence, makes levels jump from one to
        the next, and is 10 dB too loud for a telephone.
        """
        parts = [piece for piece, _ in self.samples("Good morning, how are you today?")]
        if not parts:
            return 1.0
        whole = np.concatenate(parts)
        frame = self._rate // 50
        power = np.square(whole[: len(whole) // frame * frame].reshape(-1, frame)).mean(axis=1)
        active = power[power > power.max() * 1e-3]
        level = float(np.sqrt(active.mean())) if len(active) else 0.0
        peak = float(np.abs(whole).max())
        if level <= 0.0:
            return 1.0
        return float(min(10 ** (_LEVEL_DBFS / 20) / level, _PEAK / peak))


class _WholeModel:
    """The voice as one graph."""

    def __init__(self, model: bytes, threads: int) -> None:
        self._session = _session(model, threads)

    def run(self, feed: dict[str, Any]) -> Iterator[tuple[Float32, bool]]:
        yield self._session.run(None, feed)[0].reshape(-1), True


class _CutModel:
    """The voice as three graphs, the last two run in pieces."""

    def __init__(self, graph: Graph, threads: int, hop: int) -> None:
        self._flow_in = entrances(graph, _FLOW)
        decoder_in = entrances(graph, _DECODER)
        if not self._flow_in or not decoder_in:
            raise ModelError("the voice's graph has other blocks than flow and decoder")
        self._latent = decoder_in[0]
        self._decoder_extra = decoder_in[1:]
        beside = [name for name in self._decoder_extra if name not in self._flow_in]
        self._text_out = [*self._flow_in, *beside]
        self._hop = hop
        self._text = _session(part(graph, list(graph.inputs), self._text_out), threads)
        self._flow = _session(part(graph, self._flow_in, [self._latent]), threads)
        self._decoder = _session(part(graph, decoder_in, list(graph.outputs)), threads)
        self._margin = 0
        """Frames on each side of a piece that are heard in it; 0 until it is found out by the first sentence."""

    def run(self, feed: dict[str, Any]) -> Iterator[tuple[Float32, bool]]:
        known = dict(zip(self._text_out, self._text.run(None, feed), strict=True))
        prior = known[self._flow_in[0]]
        frames = prior.shape[2]
        latent: Float32 = np.empty((1, prior.shape[1], frames), np.float32)
        self._margin = self._margin or self._reach(known, prior.shape[1], frames)
        done = 0
        for first, end in piece_plan(frames):
            wanted = min(end + self._margin, frames)
            while wanted > done:
                until = _flow_end(done, wanted, frames)
                begin, stop = max(0, done - _FLOW_MARGIN), min(until + _FLOW_MARGIN, frames)
                inputs = {name: _piece(known[name], begin, stop, frames) for name in self._flow_in}
                flowed = self._flow.run(None, inputs)[0]
                latent[:, :, done:until] = flowed[:, :, done - begin : until - begin]
                done = until
            begin = max(0, first - self._margin)
            inputs = {name: _piece(known[name], begin, wanted, frames) for name in self._decoder_extra}
            inputs[self._latent] = np.ascontiguousarray(latent[:, :, begin:wanted])
            samples = self._decoder.run(None, inputs)[0].reshape(-1)
            yield samples[(first - begin) * self._hop : (end - begin) * self._hop], end == frames

    def _reach(self, known: dict[str, Float32], channels: int, frames: int) -> int:
        """How many frames away from its own a latent frame makes a difference; ``_MOST_MARGIN`` at most."""
        size = 2 * _MOST_MARGIN + 1
        inputs = {name: _piece(known[name], 0, size, frames) for name in self._decoder_extra}
        latent = np.random.default_rng(0).standard_normal((1, channels, size)).astype(np.float32)
        heard = []
        for change in (0.0, 1.0):
            latent[:, :, _MOST_MARGIN] += change
            inputs[self._latent] = latent
            heard.append(self._decoder.run(None, inputs)[0].reshape(size, self._hop))
        changed = np.flatnonzero((np.abs(heard[0] - heard[1]) > _INAUDIBLE).any(axis=1))
        return min(_MOST_MARGIN, int(np.abs(changed - _MOST_MARGIN).max(initial=1)))


def _flow_end(done: int, wanted: int, frames: int) -> int:
    """Where the flow's next run ends: what the first piece needs, then long runs, the last one up to twice as long."""
    if done == 0:
        return wanted
    return frames if frames - done < 2 * _FLOW_FRAMES else done + _FLOW_FRAMES


def _piece(tensor: Float32, begin: int, end: int, frames: int) -> Float32:
    """Frames ``begin`` to ``end`` of a tensor in time; a tensor without time (the speaker's) as it is."""
    if tensor.ndim == 3 and tensor.shape[2] == frames:
        return np.ascontiguousarray(tensor[:, :, begin:end])
    return tensor


def _load(path: Path, model: bytes, threads: int, hop: int) -> _CutModel | _WholeModel:
    try:
        graph = read_graph(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        return _CutModel(graph, threads, hop)
    except ModelError as error:
        _log.info("%s is used whole (%s): long sentences start later", path.name, error)
    try:
        return _WholeModel(model, threads)
    except ModelError as error:
        raise ModelError(f"{path} is no Piper voice, or it is damaged; fetch it again") from error


def _session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # onnxruntime's arena keeps the most that any phrase ever took; without it speech takes a little longer.
    options.enable_cpu_mem_arena = False
    # A pool that spins between runs takes the cores from whisper.cpp and llama.cpp.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        # By way of a file: a session made from bytes keeps them, which would be the weights a second time.
        with tempfile.NamedTemporaryFile(prefix="aiphone-voice-", suffix=".onnx") as file:
            file.write(model)
            file.flush()
            return onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise SpeechError(
            f"a voice needs {len(model) // 1_000_000} MB in {tempfile.gettempdir()} while it is loaded "
            f"({error.strerror}); make room or set TMPDIR"
        ) from error
    except Exception as error:
        # onnxruntime's errors have no common base but Exception.
        raise ModelError(f"onnxruntime cannot load it: {str(error)[:200]}") from error


def _read_config(path: Path) -> PiperConfig:
    config_path = path.with_name(path.name + ".json")
    for needed in (path, config_path):
        if not needed.is_file():
            raise ModelError(f"there is no {needed}; a Piper voice is an .onnx file and its .onnx.json beside it")
    try:
        return PiperConfig.from_dict(json.loads(config_path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{config_path} is no Piper voice description ({error!r}); fetch it again") from error
