"""A thin typed layer over ``llama_cpp.llama_cpp``, the ctypes declarations of llama.cpp's C API.

One ``LlamaCpp`` owns one model and one context. It knows tokens, positions, sequences and cells, and nothing of
calls or conversations; ``llm_backend.Backend`` is the interface the scheduler sees. Names are llama.cpp's
(``llama.h``).

Thread rule: everything here belongs to the thread that made it, except ``tokenize``, ``piece`` and the plain
attributes, which llama.cpp allows from any thread. Each call into the library releases the GIL.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp._ggml as ggml
import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from aiphone.clock import Clock, SystemClock
from aiphone.errors import InferenceError, ModelError
from aiphone.inference.llm_backend import BackendOptions, Entry, Sampler
from aiphone.inference.llm_threads import Crew
from aiphone.inference.sampling import LlamaSampler
from aiphone.persona import Message, Sampling

log = logging.getLogger(__name__)

_KV_TYPES = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""ggml type number, and bytes for each element."""

_UBATCH = 128
"""Tokens computed together without flash attention, where each keeps a row of scores over all cells in use: half the
memory for them, and a CPU is as quick."""

_LOG_ERROR, _LOG_CONT = 4, 5
"""``GGML_LOG_LEVEL_ERROR`` and ``GGML_LOG_LEVEL_CONT``. Only errors are of use to whoever runs a phone: llama.cpp's
info and warnings are about tensors and buffers, and go to the debug level."""


class _LibraryLog:
    """llama.cpp's log lines, handed to ``logging``. The C callback must live as long as the process."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._level = logging.DEBUG
        self.errors: list[str] = []
        self.callback = lib.llama_log_callback(self._line)

    def install(self) -> None:
        lib.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _line(self, level: int, text: bytes | None, _user: object) -> None:
        if level != _LOG_CONT:  # which goes on with the line before
            self._level = logging.WARNING if level == _LOG_ERROR else logging.DEBUG
        self._parts.append((text or b"").decode("utf-8", "replace"))
        if not self._parts[-1].endswith("\n"):
            return
        line = "".join(self._parts).strip()
        self._parts.clear()
        if not line or not line.strip("."):
            return
        if self._level == logging.WARNING:
            self.errors = [*self.errors[-7:], line]
        log.log(self._level, "%s", line)


_library_log: _LibraryLog | None = None


def _install_log() -> _LibraryLog:
    global _library_log
    if _library_log is None:
        _library_log = _LibraryLog()
        _library_log.install()
        lib.llama_backend_init()
    _library_log.errors = []
    return _library_log


def devices() -> list[str]:
    """Accelerators that this build of llama.cpp can use, e.g. ``"Metal"``; empty for a CPU build. Any thread."""
    names: list[str] = []
    try:
        count = ggml.libggml.ggml_backend_dev_count
        get = ggml.libggml.ggml_backend_dev_get
        kind = ggml.libggml.ggml_backend_dev_type
        describe = ggml.libggml.ggml_backend_dev_description
    except AttributeError:  # a library that hides these symbols
        return names
    count.restype, get.restype, get.argtypes = ctypes.c_size_t, ctypes.c_void_p, [ctypes.c_size_t]
    kind.restype, kind.argtypes = ctypes.c_int, [ctypes.c_void_p]
    describe.restype, describe.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    for index in range(count()):
        device = get(index)
        if kind(device) in (1, 2):  # GGML_BACKEND_DEVICE_TYPE_GPU, ..._IGPU
            names.append((describe(device) or b"GPU").decode("utf-8", "replace"))
    return names


class LlamaCpp:
    """A model and its one shared context.

    Raises ``ModelError`` when the file cannot be loaded and ``InferenceError`` when the context cannot be made (most
    often: not enough memory).
    """

    def __init__(self, path: Path, options: BackendOptions, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._model: Any = None
        self._ctx: Any = None
        self._log = _install_log()
        self._load_model(path, options)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.description = _text(lib.llama_model_desc, self._model, 256)
        template = lib.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.can_cut = not (lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))
        self.kv_bytes_per_token = self._kv_bytes_per_token(*options.kv_types)
        self.bos_text = self.piece(lib.llama_vocab_bos(self._vocab), special=True).decode("utf-8", "replace")
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        # Without flash attention llama.cpp keeps the values transposed, and takes no state that does not.
        layout = options.kv_name + ("/transposed" if options.flash is False else "")
        self.fingerprint = f"{_file_digest(path)}:{layout}:{self.n_vocab}"
        self._piece_buffer = ctypes.create_string_buffer(256)
        self.gpu = devices() if options.use_gpu and options.n_gpu_layers != 0 else []
        self._make_context(options)
        self._mem = lib.llama_get_memory(self._ctx)
        self.can_shift = bool(self.can_cut and lib.llama_memory_can_shift(self._mem))
        self.n_ctx: int = lib.llama_n_ctx(self._ctx)
        self.n_seq_max: int = lib.llama_n_seq_max(self._ctx)
        self.n_batch: int = lib.llama_n_batch(self._ctx)
        self._make_batch()

    # ------------------------------------------------------------------ set-up

    def _load_model(self, path: Path, options: BackendOptions) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = options.n_gpu_layers if options.use_gpu else 0
        # Weights that stay in the file are gone when somebody writes a new one over it (cp, a download): the next token
        # would be a bus error, and every call with it. So they are read at the start.
        if hasattr(lib, "LLAMA_LOAD_MODE_NONE"):
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        else:  # llama-cpp-python before 0.3.36
            params.use_mmap = False
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            why = next((line for line in self._log.errors if "error loading model:" in line), "")
            detail = why.partition("error loading model:")[2].strip() or "llama.cpp refuses it"
            raise ModelError(
                f"The language model {path} cannot be loaded ({detail}): "
                "download it again, or give another one with -ml."
            )
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise ModelError(f"The model {path} cannot hold a conversation (it is no decoder): give another with -ml.")

    def _make_context(self, options: BackendOptions) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = options.n_ctx(self.kv_bytes_per_token)
        params.n_batch = params.n_ubatch = options.n_batch
        if options.flash is False:
            params.n_ubatch = min(options.n_batch, _UBATCH)
        params.n_seq_max = min(options.n_seq_max, lib.llama_max_parallel_sequences())
        self._cores, self._crew = options.cores, Crew(options.threads)
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k, params.type_v = (_KV_TYPES[kind][0] for kind in options.kv_types)
        params.flash_attn_type = {None: -1, True: 1, False: 0}[options.flash]
        params.offload_kqv = params.op_offload = options.use_gpu
        params.kv_unified = True
        # A sequence asks for the logits of a prompt's end and of the caller's last word at most, so the output buffer
        # (n_vocab floats a row) stays small.
        if hasattr(params, "n_outputs_max"):
            params.n_outputs_max = min(2 * params.n_seq_max, params.n_batch)
        self._ctx = lib.llama_init_from_model(self._model, params)
        if not self._ctx:
            detail = self._log.errors[-1] if self._log.errors else "no reason given"
            self.close()
            raise InferenceError(
                f"llama.cpp could not make a context of {params.n_ctx} tokens ({detail}): "
                "lower --max-calls, or choose a smaller model."
            )

    def _kv_bytes_per_token(self, type_k: str, type_v: str) -> float:
        """Size of one cell over all layers, from the model's shape (llama.cpp: ``n_embd_k_gqa + n_embd_v_gqa``)."""
        architecture = self.meta("general.architecture")
        heads, kv_heads = lib.llama_model_n_head(self._model), lib.llama_model_n_head_kv(self._model)
        width = lib.llama_model_n_embd(self._model) // max(heads, 1)
        key = int(self.meta(f"{architecture}.attention.key_length") or width)
        value = int(self.meta(f"{architecture}.attention.value_length") or width)
        layers = lib.llama_model_n_layer(self._model)
        return float(layers * kv_heads * (key * _KV_TYPES[type_k][1] + value * _KV_TYPES[type_v][1]))

    def _make_batch(self) -> None:
        """A ``llama_batch`` over numpy arrays: filling it is slicing, not one ctypes call for each field."""
        n = self.n_batch
        self._token = np.zeros(n, np.int32)
        self._pos = np.zeros(n, np.int32)
        self._n_seq = np.ones(n, np.int32)
        self._seq = np.zeros(n, np.int32)
        self._seq_ptr = (self._seq.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        self._logits = np.zeros(n, np.int8)
        batch = lib.llama_batch()
        batch.embd = None
        for field, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._n_seq),
            ("seq_id", self._seq_ptr),
            ("logits", self._logits),
        ):
            kind = dict(lib.llama_batch._fields_)[field]
            setattr(batch, field, ctypes.cast(ctypes.c_void_p(array.ctypes.data), kind))
        self._batch = batch

    # ------------------------------------------------------------------ vocabulary

    def meta(self, key: str) -> str:
        """A metadata value of the GGUF as text; empty when there is none."""
        return _text(lib.llama_model_meta_val_str, self._model, 256, key.encode())

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a rendered prompt. Control tokens in it count as such; BOS is added where the model wants it."""
        data = text.encode("utf-8", "replace")
        add_special = self.adds_bos and not (self.bos_text and text.startswith(self.bos_text))
        room = len(data) + 8
        out = (ctypes.c_int32 * room)()
        n = lib.llama_tokenize(self._vocab, data, len(data), out, room, add_special, True)
        if n < 0:
            raise InferenceError(f"llama.cpp could not tokenise a prompt of {len(data)} bytes: report this as a bug.")
        return list(out[:n])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of a token, perhaps half a character. Control tokens are empty unless ``special``."""
        buffer = ctypes.create_string_buffer(256)
        n = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:n] if n > 0 else b""

    def is_eog(self, token: int) -> bool:
        """True for a token that ends a generation."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def control_texts(self) -> list[str]:
        """Texts of all control tokens. What a caller says must never be able to spell one."""
        control = (token for token in range(self.n_vocab) if lib.llama_vocab_is_control(self._vocab, token))
        texts = [(lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace") for token in control]
        return [text for text in texts if len(text) > 1]

    def apply_template(self, template: str, messages: Sequence[Message], *, add_assistant: bool) -> str | None:
        """Render with llama.cpp's own templates; None when it does not know this one."""
        array = (lib.llama_chat_message * max(len(messages), 1))()
        for slot, message in zip(array, messages, strict=False):
            slot.role, slot.content = message.role.encode(), message.content.encode("utf-8", "replace")
        room = 256 + 2 * sum(len(message.content.encode("utf-8", "replace")) + 64 for message in messages)
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_chat_apply_template(template.encode(), array, len(messages), add_assistant, buffer, room)
            if n < 0:
                return None
            if n <= room:
                return buffer.raw[:n].decode("utf-8", "replace")
            room = n
        return None

    # ------------------------------------------------------------------ decoding

    def decode(self, entries: Sequence[Entry]) -> int:
        """One ``llama_decode``. 0 is success, 1 "no KV slot", anything else a failure. At most ``n_batch`` tokens.

        An entry with ``logits`` gets the logits of its last token, found by ``sample`` under its index here.
        """
        n = 0
        self._rows: list[int] = []
        for entry in entries:
            end = n + len(entry.tokens)
            self._token[n:end] = entry.tokens
            self._pos[n:end] = np.arange(entry.pos, entry.pos + len(entry.tokens))
            self._seq[n:end] = entry.seq
            self._logits[n:end] = 0
            self._logits[end - 1] = entry.logits
            self._rows.append(end - 1)
            n = end
        self._batch.n_tokens = n
        with self._cores.working(self._crew.choose(n)) as threads:
            lib.llama_set_n_threads(self._ctx, threads, threads)
            began = self._clock.now()
            code = int(lib.llama_decode(self._ctx, self._batch))
            self._crew.took(threads, n, self._clock.now() - began)
        return code

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of entry ``index`` of the last ``decode``, shape ``(n_vocab,)``; a view, valid until the next."""
        row = lib.llama_get_logits_ith(self._ctx, self._rows[index])
        return np.ctypeslib.as_array(row, shape=(self.n_vocab,))

    def sample(self, sampler: Sampler, index: int) -> int | None:
        """Next token for entry ``index`` of the last ``decode``; None when its logits are not numbers."""
        assert isinstance(sampler, LlamaSampler)
        # max() carries a NaN through, and is a fraction of what the sampler itself reads.
        if not np.isfinite(self.logits(index).max()):
            return None
        return sampler.sample(self._ctx, self._rows[index], self.logits(index))

    def probability(self, tokens: Sequence[int], index: int) -> float:
        """That one of ``tokens`` comes next after entry ``index`` of the last ``decode``; NaN with its logits."""
        row = self.logits(index)
        weights = np.exp(row - row.max())
        return float(weights[list(tokens)].sum() / weights.sum())

    def new_sampler(self, sampling: Sampling, grammar: str | None) -> LlamaSampler:
        """A sampler chain. Raises ``InferenceError`` for a grammar that does not parse."""
        return LlamaSampler(self._vocab, self.n_vocab, sampling, grammar)

    # ------------------------------------------------------------------ memory

    def seq_rm(self, seq: int, p0: int, p1: int = -1) -> bool:
        """Remove positions [p0, p1) of a sequence; False when this model cannot cut there."""
        return bool(lib.llama_memory_seq_rm(self._mem, seq, p0, p1))

    def seq_cp(self, src: int, dst: int, p1: int) -> None:
        """Let ``dst`` share the first ``p1`` positions of ``src``. No data moves."""
        lib.llama_memory_seq_cp(self._mem, src, dst, 0, p1)

    def seq_shift(self, seq: int, p0: int, delta: int) -> None:
        """Add ``delta`` to the positions from ``p0`` on."""
        lib.llama_memory_seq_add(self._mem, seq, p0, -1, delta)

    def seq_len(self, seq: int) -> int:
        """Number of positions of a sequence, from the memory itself."""
        return int(lib.llama_memory_seq_pos_max(self._mem, seq)) + 1

    def state_get(self, seq: int) -> bytes | None:
        """KV state of one sequence, or None when llama.cpp cannot give it."""
        size = lib.llama_state_seq_get_size(self._ctx, seq)
        buffer = np.empty(size, np.uint8)
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = lib.llama_state_seq_get_data(self._ctx, pointer, size, seq)
        return buffer[:written].tobytes() if written else None

    def state_set(self, seq: int, data: bytes) -> bool:
        """Put a saved state into an empty sequence; False (and an empty sequence) when it does not fit."""
        array = np.frombuffer(data, np.uint8)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if lib.llama_state_seq_set_data(self._ctx, pointer, len(data), seq):
            return True
        self.seq_rm(seq, 0)
        return False

    def close(self) -> None:
        """Free context and model. The object is dead afterwards; a second call does nothing."""
        if self._ctx:
            lib.llama_free(self._ctx)
            self._ctx = None
        if self._model:
            lib.llama_model_free(self._model)
            self._model = None


def _text(call: Callable[..., int], model: Any, room: int, *key: bytes) -> str:
    buffer = ctypes.create_string_buffer(room)
    n = call(model, *key, buffer, room)
    return buffer.value.decode("utf-8", "replace") if n >= 0 else ""


def _file_digest(path: Path) -> str:
    """Names a model file by its size and both ends; hashing gigabytes at each start would cost seconds."""
    span = 1 << 20
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest.update(str(size).encode())
        for start in (0, max(0, size - span)):
            file.seek(start)
            digest.update(file.read(span))
    return digest.hexdigest()[:32]
