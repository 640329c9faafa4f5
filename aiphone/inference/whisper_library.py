"""The libwhisper that the pywhispercpp package brings, by ctypes.

pywhispercpp's own binding knows one state for each model. The library beside it exports the calls for many
(``whisper_init_state``, ``whisper_full_with_state``), so this module declares those of them that are needed.

``whisper_full_params`` is passed by value and has changed from version to version. Its declaration below is
that of whisper.cpp 1.8.5. Before anything is done with it, the library is asked for its defaults, and every
field that has a telling one, from the first to the last, is compared, with pywhispercpp's compiled view as a
second witness: a library with another layout is refused instead of being fed nonsense.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import threading
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from aiphone.errors import InferenceError

_whisper_log = logging.getLogger("aiphone.whisper.cpp")

LAYOUT_VERSION = "1.8.5"
"""The whisper.cpp whose header the structures below follow."""
CURE = "install the version this was made for with: pip install 'pywhispercpp==1.5.1'"

SAMPLING_GREEDY, SAMPLING_BEAM_SEARCH = 0, 1

AbortCallback = ctypes.CFUNCTYPE(c_bool, c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class TokenData(ctypes.Structure):
    """``whisper_token_data``."""

    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("id", c_int32),
        ("tid", c_int32),
        ("p", c_float),
        ("plog", c_float),
        ("pt", c_float),
        ("ptsum", c_float),
        ("t0", c_int64),
        ("t1", c_int64),
        ("t_dtw", c_int64),
        ("vlen", c_float),
    ]


LogitsFilter = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, POINTER(TokenData), c_int, POINTER(c_float), c_void_p)


class _AlignmentHeads(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [("n_heads", c_size_t), ("heads", c_void_p)]


class ContextParams(ctypes.Structure):
    """``whisper_context_params``."""

    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("use_gpu", c_bool),
        ("flash_attn", c_bool),
        ("gpu_device", c_int),
        ("dtw_token_timestamps", c_bool),
        ("dtw_aheads_preset", c_int),
        ("dtw_n_top", c_int),
        ("dtw_aheads", _AlignmentHeads),
        ("dtw_mem_size", c_size_t),
    ]


class _Greedy(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [("best_of", c_int)]


class _BeamSearch(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [("beam_size", c_int), ("patience", c_float)]


class _VadParams(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("threshold", c_float),
        ("min_speech_duration_ms", c_int),
        ("min_silence_duration_ms", c_int),
        ("max_speech_duration_s", c_float),
        ("speech_pad_ms", c_int),
        ("samples_overlap", c_float),
    ]


class FullParams(ctypes.Structure):
    """``whisper_full_params``."""

    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("strategy", c_int),
        ("n_threads", c_int),
        ("n_max_text_ctx", c_int),
        ("offset_ms", c_int),
        ("duration_ms", c_int),
        ("translate", c_bool),
        ("no_context", c_bool),
        ("no_timestamps", c_bool),
        ("single_segment", c_bool),
        ("print_special", c_bool),
        ("print_progress", c_bool),
        ("print_realtime", c_bool),
        ("print_timestamps", c_bool),
        ("token_timestamps", c_bool),
        ("thold_pt", c_float),
        ("thold_ptsum", c_float),
        ("max_len", c_int),
        ("split_on_word", c_bool),
        ("max_tokens", c_int),
        ("debug_mode", c_bool),
        ("audio_ctx", c_int),
        ("tdrz_enable", c_bool),
        ("suppress_regex", c_char_p),
        ("initial_prompt", c_char_p),
        ("carry_initial_prompt", c_bool),
        ("prompt_tokens", POINTER(c_int32)),
        ("prompt_n_tokens", c_int),
        ("language", c_char_p),
        ("detect_language", c_bool),
        ("suppress_blank", c_bool),
        ("suppress_nst", c_bool),
        ("temperature", c_float),
        ("max_initial_ts", c_float),
        ("length_penalty", c_float),
        ("temperature_inc", c_float),
        ("entropy_thold", c_float),
        ("logprob_thold", c_float),
        ("no_speech_thold", c_float),
        ("greedy", _Greedy),
        ("beam_search", _BeamSearch),
        ("new_segment_callback", c_void_p),
        ("new_segment_callback_user_data", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("encoder_begin_callback", c_void_p),
        ("encoder_begin_callback_user_data", c_void_p),
        ("abort_callback", AbortCallback),
        ("abort_callback_user_data", c_void_p),
        ("logits_filter_callback", LogitsFilter),
        ("logits_filter_callback_user_data", c_void_p),
        ("grammar_rules", c_void_p),
        ("n_grammar_rules", c_size_t),
        ("i_start_rule", c_size_t),
        ("grammar_penalty", c_float),
        ("vad", c_bool),
        ("vad_model_path", c_char_p),
        ("vad_params", _VadParams),
    ]


_FULL_DEFAULTS: dict[str, object] = {
    "strategy": SAMPLING_GREEDY,
    "n_max_text_ctx": 16384,
    "offset_ms": 0,
    "duration_ms": 0,
    "translate": False,
    "no_context": True,
    "no_timestamps": False,
    "single_segment": False,
    "print_progress": True,
    "print_timestamps": True,
    "token_timestamps": False,
    "thold_pt": 0.01,
    "thold_ptsum": 0.01,
    "max_len": 0,
    "max_tokens": 0,
    "audio_ctx": 0,
    "suppress_regex": None,
    "initial_prompt": None,
    "prompt_n_tokens": 0,
    "language": b"en",
    "detect_language": False,
    "suppress_blank": True,
    "suppress_nst": False,
    "temperature": 0.0,
    "max_initial_ts": 1.0,
    "length_penalty": -1.0,
    "temperature_inc": 0.2,
    "entropy_thold": 2.4,
    "logprob_thold": -1.0,
    "no_speech_thold": 0.6,
    "greedy.best_of": 5,
    "beam_search.beam_size": -1,
    "beam_search.patience": -1.0,
    "new_segment_callback": None,
    "logits_filter_callback_user_data": None,
    "n_grammar_rules": 0,
    "i_start_rule": 0,
    "grammar_penalty": 100.0,
    "vad": False,
    "vad_model_path": None,
    "vad_params.threshold": 0.5,
    "vad_params.min_speech_duration_ms": 250,
    "vad_params.min_silence_duration_ms": 100,
    "vad_params.speech_pad_ms": 30,
    "vad_params.samples_overlap": 0.1,
}

_CONTEXT_DEFAULTS: dict[str, object] = {
    "use_gpu": True,
    "gpu_device": 0,
    "dtw_token_timestamps": False,
    "dtw_aheads_preset": 0,
    "dtw_n_top": -1,
    "dtw_aheads.n_heads": 0,
    "dtw_mem_size": 128 * 1024 * 1024,
}

# Fields that pywhispercpp's compiled view of the structure must agree on.
_WITNESSED = (
    "n_threads",
    "n_max_text_ctx",
    "audio_ctx",
    "temperature_inc",
    "entropy_thold",
    "no_speech_thold",
)


def library_candidates(root: Path) -> Iterator[Path]:
    """Where libwhisper may lie below ``root``, a site-packages directory; the likeliest first.

    Repaired wheels keep it in ``pywhispercpp.libs`` (Linux) or a ``.dylibs`` directory (macOS); a build from
    source puts it beside the extension module.
    """
    places = (
        "pywhispercpp.libs",
        "pywhispercpp.dylibs",
        "_pywhispercpp.dylibs",
        "pywhispercpp/.dylibs",
        ".dylibs",
        "pywhispercpp/lib",
        "pywhispercpp",
        "lib",
        "lib64",
        ".",
    )
    for place in places:
        found = [
            path
            for pattern in ("libwhisper*.so*", "libwhisper*.dylib")
            for path in (root / place).glob(pattern)
            if path.is_file()
        ]
        # The longest name carries the full version; the others are links or copies of it.
        yield from sorted(found, key=lambda path: (-len(path.name), path.name))


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load libwhisper once for the process, check its layout and route its log. Any thread.

    Raises ``InferenceError`` when pywhispercpp or the library is missing, or when the structures differ.
    """
    if importlib.util.find_spec("_pywhispercpp") is None:
        raise InferenceError("the pywhispercpp package is not installed; " + CURE + ".")
    try:
        # Loaded first, so that the library's own dependencies are found the way the wheel arranged it.
        witness = importlib.import_module("_pywhispercpp")
    except ImportError as error:
        raise InferenceError(f"pywhispercpp cannot be loaded ({error}); {CURE}.") from error
    root = Path(str(witness.__file__)).parent
    library = next(library_candidates(root), None)
    if library is None:
        raise InferenceError(f"there is no libwhisper beside pywhispercpp in {root}; {CURE}.")
    try:
        lib = ctypes.CDLL(str(library))
        _declare(lib)
    except (OSError, AttributeError) as error:
        raise InferenceError(f"{library} cannot be used ({error}); {CURE}.") from error
    check_layout(lib, witness)
    lib.whisper_log_set(_ROUTE_LOG, None)
    return lib


def _declare(lib: ctypes.CDLL) -> None:
    context, state, number = c_void_p, c_void_p, c_int

    def declare(name: str, result: object, *arguments: object) -> None:
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments

    declare("whisper_version", c_char_p)
    declare("whisper_print_system_info", c_char_p)
    declare("whisper_log_set", None, LogCallback, c_void_p)
    declare("whisper_full_default_params_by_ref", POINTER(FullParams), number)
    declare("whisper_context_default_params_by_ref", POINTER(ContextParams))
    declare("whisper_free_params", None, c_void_p)
    declare("whisper_free_context_params", None, c_void_p)
    declare("whisper_init_from_file_with_params_no_state", context, c_char_p, ContextParams)
    declare("whisper_init_state", state, context)
    declare("whisper_free", None, context)
    declare("whisper_free_state", None, state)
    declare("whisper_full_with_state", number, context, state, FullParams, POINTER(c_float), number)
    for name in ("is_multilingual", "n_vocab", "n_audio_ctx", "n_text_ctx", "token_eot", "token_beg"):
        declare(f"whisper_{name}", number, context)
    declare("whisper_model_type_readable", c_char_p, context)
    declare("whisper_lang_id", number, c_char_p)
    declare("whisper_lang_str", c_char_p, number)
    declare("whisper_lang_max_id", number)
    declare("whisper_pcm_to_mel_with_state", number, context, state, POINTER(c_float), number, number)
    declare("whisper_lang_auto_detect_with_state", number, context, state, number, number, POINTER(c_float))
    declare("whisper_full_n_segments_from_state", number, state)
    declare("whisper_full_get_segment_t0_from_state", c_int64, state, number)
    declare("whisper_full_get_segment_t1_from_state", c_int64, state, number)
    declare("whisper_full_get_segment_text_from_state", c_char_p, state, number)
    declare("whisper_full_get_segment_no_speech_prob_from_state", c_float, state, number)
    declare("whisper_full_n_tokens_from_state", number, state, number)
    declare("whisper_full_get_token_data_from_state", TokenData, state, number, number)
    declare("whisper_token_to_str", c_char_p, context, c_int32)


def check_layout(lib: Any, witness: ModuleType) -> None:
    """Compare the library's default parameters with what the declarations here make of them.

    Raises ``InferenceError`` that names the library's version and the first field that differs.
    """
    full = lib.whisper_full_default_params_by_ref(SAMPLING_GREEDY)
    context = lib.whisper_context_default_params_by_ref()
    try:
        version = lib.whisper_version().decode()
        _compare(full.contents, _FULL_DEFAULTS, "whisper_full_params", version)
        _compare(context.contents, _CONTEXT_DEFAULTS, "whisper_context_params", version)
        seen = witness.whisper_full_default_params(witness.WHISPER_SAMPLING_GREEDY)
        _compare(full.contents, {name: getattr(seen, name) for name in _WITNESSED}, "whisper_full_params", version)
    finally:
        lib.whisper_free_params(full)
        lib.whisper_free_context_params(context)


def _compare(structure: object, expected: dict[str, object], name: str, version: str) -> None:
    for field, value in expected.items():
        found = functools.reduce(getattr, field.split("."), structure)
        same = abs(found - value) < 1e-5 if isinstance(value, float) and isinstance(found, float) else found == value
        if not same:
            raise InferenceError(
                f"whisper.cpp {version} lays out {name} differently from {LAYOUT_VERSION} (its default for "
                f"{field} reads {found!r}, not {value!r}); {CURE}."
            )


_stopping = threading.local()


def expect_stop(asked: bool) -> None:
    """Say that whisper.cpp is being stopped on this thread, which it reports as a failure. Any thread."""
    _stopping.asked = asked


def _log_line(level: int, text: bytes | None, _user_data: object) -> None:
    """whisper.cpp's and ggml's log lines. Any thread."""
    line = (text or b"").decode(errors="replace").rstrip()
    if not line:
        return
    if getattr(_stopping, "asked", False):
        level = 1  # the "error" is the stop that we asked for
    # ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continuation. Its info is our debug.
    _whisper_log.log({3: logging.INFO, 4: logging.WARNING}.get(level, logging.DEBUG), "%s", line)


# The library keeps a bare pointer to it for the life of the process, so it must never be collected.
_ROUTE_LOG = LogCallback(_log_line)


def library_version() -> str:
    """Version of the loaded whisper.cpp, for example ``"1.8.5"``. Any thread."""
    return str(load_library().whisper_version().decode())


def system_info() -> str:
    """``whisper_print_system_info``: what the build can use (CPU features, Metal, CUDA). Any thread."""
    return str(load_library().whisper_print_system_info().decode().strip())


def accelerators(info: str | None = None) -> tuple[str, ...]:
    """The graphics backends named in ``info`` (``system_info()`` by default), for example ``("Metal",)``."""
    text = system_info() if info is None else info
    known = {"Metal": "Metal", "CUDA": "CUDA", "ROCm": "ROCm", "Vulkan": "Vulkan", "SYCL": "SYCL"}
    sections = {part.split(":")[0].strip() for part in text.split("|") if ":" in part}
    return tuple(name for key, name in known.items() if key in sections)
