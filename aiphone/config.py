"""Every setting, once.

``Settings`` is the single table from which the command line (``cli/arguments.py``), the configuration file
(``config_file.py``) and the README's list are made. A field says its flags, its group, its range and its help;
its default is the product's default. Nothing else in the package reads flags, files or the environment.

Names and letters are those of whisper.cpp's talk-llama where the setting exists there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from aiphone.errors import ConfigError

GROUPS = {
    "models": "Models",
    "conversation": "Conversation",
    "sampling": "Language model sampling",
    "telephone": "Telephone (SIP and RTP)",
    "server": "Web page and files",
}
"""Groups of options, in the order in which the help shows them."""


@dataclass(frozen=True, slots=True)
class Option:
    """How one setting looks from outside."""

    flags: tuple[str, ...]
    group: str
    help: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None


def _option(
    default: object,
    *flags: str,
    group: str,
    help: str,  # noqa: A002 - the word argparse uses
    low: float | None = None,
    high: float | None = None,
    metavar: str | None = None,
) -> Any:
    return field(default=default, metadata={"option": Option(flags, group, help, low=low, high=high, metavar=metavar)})


@dataclass(frozen=True, slots=True)
class LineSettings:
    """A SIP account from a ``[[lines]]`` table of the configuration file."""

    client_id: str
    username: str
    server_ip: str
    password: str = field(default="", repr=False)
    server_port: int = 5060
    display_name: str = ""
    auto_answer: bool = True
    greeting: str = ""
    transport: Literal["udp", "tcp", "tls"] = "udp"
    auth_username: str = ""
    proxy: str = ""
    enabled: bool = True
    # What the line does with its calls; the meanings are those of ``sip.settings.CallPolicy``.
    answer_after: float = 0.0
    early_media: bool = False
    max_calls: int = 0
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    anonymous: bool = True
    trust_identity: bool = True
    transfers: bool = True
    personas: tuple[str, ...] = ()
    """Called number and persona, as ``"+4930555=sales"``."""
    srtp: Literal["off", "optional", "mandatory"] = "off"
    allowed_networks: tuple[str, ...] = ()


def default_threads() -> int:
    """Threads for each model: the cores, at most four, as talk-llama does."""
    return max(1, min(4, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a server. Immutable; checked by ``check``."""

    # ---- models
    model_whisper: str = _option(
        "tiny.en", "-mw", "--model-whisper", group="models", metavar="MODEL",
        help="speech to text: a catalogue name, a ggml file, or a CTranslate2 directory",
    )  # fmt: skip
    model_llama: str = _option(
        "smollm2-135m-instruct", "-ml", "--model-llama", group="models", metavar="MODEL",
        help="language model: a catalogue name or a GGUF file",
    )  # fmt: skip
    llm_url: str = _option(
        "", "--llm-url", group="models", metavar="URL",
        help="ask this OpenAI-compatible server instead of a model of our own, as in http://127.0.0.1:8080/v1",
    )  # fmt: skip
    llm_model: str = _option(
        "", "--llm-model", group="models", metavar="NAME",
        help="what that server calls the model; empty takes the first it lists",
    )  # fmt: skip
    llm_key_file: str = _option(
        "", "--llm-key-file", group="models", metavar="FILE",
        help="file with that server's key; the environment variable AIPHONE_LLM_KEY does as well",
    )  # fmt: skip
    voice: str = _option(
        "en_US-joe-medium", "--voice", group="models", metavar="VOICE",
        help="Piper voice: a catalogue name or an .onnx file",
    )  # fmt: skip
    speak: str = _option(
        "", "-s", "--speak", group="models", metavar="COMMAND",
        help="speak with this command instead of Piper: text on its standard input, WAV on its output; "
        "{text}, {file}, {out}, {voice}, {speed} and {rate} are filled in; 'say' and 'espeak-ng' are known by name",
    )  # fmt: skip
    threads: int = _option(
        default_threads(), "-t", "--threads", group="models", low=1, high=256, metavar="N",
        help="threads for LLaMA and the voice; Whisper takes one less, beside which the turn-end model works",
    )  # fmt: skip
    audio_ctx: int = _option(
        0, "-ac", "--audio-ctx", group="models", low=0, high=1500, metavar="N",
        help="Whisper's audio context; 0 is in proportion to what was said",
    )  # fmt: skip
    max_tokens: int = _option(
        0, "-mt", "--max-tokens", group="models", low=0, high=448, metavar="N",
        help="most tokens Whisper may write for one turn; 0 is in proportion to what was said",
    )  # fmt: skip
    gpu_layers: int = _option(
        999, "-ngl", "--n-gpu-layers", group="models", low=0, high=100_000, metavar="N",
        help="layers of the language model to keep on the GPU, when there is one",
    )  # fmt: skip
    no_gpu: bool = _option(False, "-ng", "--no-gpu", group="models", help="do not use a GPU")
    flash_attn: bool = _option(False, "-fa", "--flash-attn", group="models", help="flash attention")
    no_flash_attn: bool = _option(
        False, "-nfa", "--no-flash-attn", group="models",
        help="none in the language model: on a CPU quicker with long instructions and few callers, slower with many",
    )  # fmt: skip
    ctx_per_call: int = _option(
        2048, "--ctx-per-call", group="models", low=256, high=131_072, metavar="N",
        help="tokens of conversation that each call may hold",
    )  # fmt: skip

    # With q8_0 one token in 45 is another (greedy, SmolLM2-135M on telephone talk) and nothing is faster: f16, as
    # that model's cache is 96 MB at the most however many calls there are.
    cache_type_k: str = _option(
        "f16", "-ctk", "--cache-type-k", group="models", metavar="TYPE",
        help="type of the keys in the language model's KV cache: f16, or q8_0 for half the memory",
    )  # fmt: skip
    cache_type_v: str = _option(
        "f16", "-ctv", "--cache-type-v", group="models", metavar="TYPE",
        help="the same of the values; q8_0 needs flash attention, which is then used",
    )  # fmt: skip

    # ---- conversation
    person: str = _option(
        "Caller", "-p", "--person", group="conversation", metavar="NAME", help="what the transcript calls the caller"
    )  # fmt: skip
    bot_name: str = _option(
        "LLaMA", "-bn", "--bot-name", group="conversation", metavar="NAME", help="what the assistant calls itself"
    )  # fmt: skip
    greeting: str = _option(
        "Hello, this is {name}. How can I help you?", "--greeting", group="conversation", metavar="TEXT",
        help="first words of a call, with {name} and {caller} filled in; empty for none",
    )  # fmt: skip
    prompt_file: str = _option(
        "", "--prompt-file", group="conversation", metavar="FILE", help="system prompt of the assistant"
    )  # fmt: skip
    language: str = _option(
        "en", "-l", "--language", group="conversation", metavar="LANG", help="spoken language, or 'auto'"
    )  # fmt: skip
    translate: bool = _option(
        False, "-tr", "--translate", group="conversation", help="translate what is said to English"
    )  # fmt: skip
    wake_command: str = _option(
        "", "-w", "--wake-command", group="conversation", metavar="TEXT", help="answer only turns that begin so"
    )  # fmt: skip
    heard_ok: str = _option(
        "", "-ho", "--heard-ok", group="conversation", metavar="TEXT", help="said when the wake command is heard"
    )  # fmt: skip
    vad_threshold: float = _option(
        0.5, "-vth", "--vad-thold", group="conversation", low=0.05, high=0.95, metavar="P",
        help="probability from which sound counts as voice",
    )  # fmt: skip
    patience: float = _option(
        0.9, "--patience", group="conversation", low=0.1, high=10.0, metavar="SECONDS",
        help="silence after which the caller's turn is over, when neither voice nor words say more",
    )  # fmt: skip
    patience_floor: float = _option(
        0.5, "--patience-floor", group="conversation", low=0.1, high=10.0, metavar="SECONDS",
        help="the same when the turn is over by all signs; never more than --patience",
    )  # fmt: skip
    patience_ceiling: float = _option(
        1.2, "--patience-ceiling", group="conversation", low=0.1, high=30.0, metavar="SECONDS",
        help="the same when it is certainly not over; never less than --patience",
    )  # fmt: skip
    filler: str = _option(
        "One moment.", "--filler", group="conversation", metavar="TEXT",
        help="said once when an answer takes long; empty for nothing",
    )  # fmt: skip
    idle_after: float = _option(
        15.0, "--idle-after", group="conversation", low=0.0, high=3600.0, metavar="SECONDS",
        help="silence after which the assistant asks whether anyone is there; 0 is never",
    )  # fmt: skip
    actions: str = _option(
        "", "--actions", group="conversation", metavar="LIST",
        help="what the assistant may do besides talking: some of 'hang up', 'transfer', 'press', 'hold', with commas",
    )  # fmt: skip
    transfers: str = _option(
        "", "--transfers", group="conversation", metavar="LIST",
        help="to whom it may transfer callers, as in 'sales = sip:sales@example.com', with commas",
    )  # fmt: skip
    session: str = _option(
        "", "--session", group="conversation", metavar="FILE",
        help="keep each caller's conversation in this file and go on from it",
    )  # fmt: skip
    session_days: int = _option(
        0, "--session-days", group="conversation", low=0, high=36_500, metavar="N",
        help="forget callers who have not called for so many days; 0 is never",
    )  # fmt: skip
    session_megabytes: int = _option(
        512, "--session-megabytes", group="conversation", low=1, high=1_000_000, metavar="N",
        help="most that the session file may hold",
    )  # fmt: skip
    file: str = _option(
        "", "-f", "--file", group="conversation", metavar="FILE", help="append the words of all calls to this file"
    )  # fmt: skip

    # ---- sampling
    seed: int = _option(0, "--seed", group="sampling", low=0, high=2**32 - 1, metavar="N", help="random seed")
    top_k: int = _option(40, "--top-k", group="sampling", low=0, high=100_000, metavar="N", help="top-k sampling")
    top_p: float = _option(0.95, "--top-p", group="sampling", low=0.0, high=1.0, metavar="P", help="top-p sampling")
    min_p: float = _option(0.05, "--min-p", group="sampling", low=0.0, high=1.0, metavar="P", help="min-p sampling")
    temp: float = _option(
        0.3, "--temp", group="sampling", low=0.0, high=5.0, metavar="T", help="temperature; 0 is greedy"
    )  # fmt: skip
    reply_tokens: int = _option(
        160, "--reply-tokens", group="sampling", low=1, high=4096, metavar="N", help="longest answer, in tokens"
    )  # fmt: skip

    # ---- telephone
    sip_host: str = _option(
        "auto", "--sip-host", group="telephone", metavar="ADDRESS",
        help="address for SIP and RTP, also IPv6 (::1); 'auto' is 127.0.0.1, and our address towards a line's server; "
        "'any' is every address, IPv4 and IPv6",
    )  # fmt: skip
    sip_port: int = _option(
        5060, "--sip-port", group="telephone", low=0, high=65_535, metavar="PORT", help="SIP port, UDP and TCP"
    )  # fmt: skip
    sip_tls_port: int = _option(
        0, "--sip-tls-port", group="telephone", low=0, high=65_535, metavar="PORT",
        help="SIP port for TLS, usually 5061; 0 is none",
    )  # fmt: skip
    sip_tls_cert: str = _option(
        "", "--sip-tls-cert", group="telephone", metavar="FILE", help="our certificate (PEM) for SIP over TLS"
    )  # fmt: skip
    sip_tls_key: str = _option(
        "", "--sip-tls-key", group="telephone", metavar="FILE", help="its private key (PEM), when in a file of its own"
    )  # fmt: skip
    sip_tls_ca: str = _option(
        "", "--sip-tls-ca", group="telephone", metavar="FILE",
        help="certificates (PEM) of the authorities that SIP servers are believed by; the system's when not given",
    )  # fmt: skip
    sip_tls_no_verify: bool = _option(
        False, "--sip-tls-no-verify", group="telephone", help="talk TLS with SIP servers whoever they are"
    )  # fmt: skip
    rtp_ports: str = _option(
        "10000-10999", "--rtp-ports", group="telephone", metavar="A-B", help="UDP ports for RTP and RTCP"
    )  # fmt: skip
    stun: str = _option(
        "", "--stun", group="telephone", metavar="SERVER",
        help="STUN server, host or host:port, that tells our public address and ports (behind a NAT)",
    )  # fmt: skip
    public_address: str = _option(
        "", "--public-address", group="telephone", metavar="ADDRESS",
        help="address to announce in SIP and SDP when a router stands between",
    )  # fmt: skip
    max_calls: int = _option(
        8, "--max-calls", group="telephone", low=1, high=1000, metavar="N", help="calls answered at once"
    )  # fmt: skip
    direct_from: str = _option(
        "local", "--direct-from", group="telephone", metavar="WHO",
        help="who may call the direct line: 'local' (this machine), 'any', 'none', or networks like 192.168.1.0/24",
    )  # fmt: skip
    comfort_noise: float = _option(
        0.0, "--comfort-noise", group="telephone", low=-90.0, high=0.0, metavar="DBFS",
        help="level of the noise that is sent while the assistant is silent, -70 to -55 is usual; to who has "
        "comfort noise (RFC 3389) it is described and not sent; 0 sends silence",
    )  # fmt: skip
    rtp_timeout: float = _option(
        30.0, "--rtp-timeout", group="telephone", low=1.0, high=3600.0, metavar="SECONDS",
        help="a call without RTP for this long is ended",
    )  # fmt: skip

    # ---- server
    host: str = _option(
        "127.0.0.1", "--host", group="server", metavar="ADDRESS", help="address of the web page"
    )  # fmt: skip
    http_port: int = _option(
        8081, "-hp", "--http-port", group="server", low=0, high=65_535, metavar="PORT", help="port of the web page"
    )  # fmt: skip
    tls_cert: str = _option(
        "", "--tls-cert", group="server", metavar="FILE", help="certificate (PEM) of the web page: serve HTTPS"
    )  # fmt: skip
    tls_key: str = _option(
        "", "--tls-key", group="server", metavar="FILE", help="its private key (PEM), when in a file of its own"
    )  # fmt: skip
    data_dir: str = _option("", "--data-dir", group="server", metavar="DIR", help="where the server keeps its files")
    models_dir: str = _option("", "--models-dir", group="server", metavar="DIR", help="where models are kept")
    log_level: str = _option(
        "warning", "--log-level", group="server", metavar="LEVEL", help="debug, info, warning or error"
    )  # fmt: skip

    lines: tuple[LineSettings, ...] = ()

    def check(self) -> Settings:
        """Return self, or raise ``ConfigError`` naming the first setting whose value is out of range."""
        for item in fields(self):
            option = item.metadata.get("option")
            if option is not None:
                check_range(option_name(option), getattr(self, item.name), option)
        self.rtp_range()
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(f"--log-level is '{self.log_level}'; it takes debug, info, warning or error")
        for flag, kind in (("--cache-type-k", self.cache_type_k), ("--cache-type-v", self.cache_type_v)):
            if kind not in ("f16", "q8_0"):
                raise ConfigError(f"{flag} is '{kind}'; it takes f16 or q8_0")
        if self.flash_attn and self.no_flash_attn:
            raise ConfigError("--flash-attn and --no-flash-attn are both given; leave one of them out")
        if self.no_flash_attn and self.cache_type_v != "f16":
            raise ConfigError(
                f"--cache-type-v {self.cache_type_v} needs flash attention; leave --no-flash-attn out, or choose f16"
            )
        if not self.bot_name.strip():
            raise ConfigError("--bot-name is empty; give the assistant a name")
        return self

    def rtp_range(self) -> tuple[int, int]:
        """First and last RTP port of ``rtp_ports``."""
        first, _, last = self.rtp_ports.partition("-")
        if not (first.strip().isdigit() and last.strip().isdigit()):
            raise ConfigError(f"--rtp-ports is '{self.rtp_ports}'; it takes two ports, as in 10000-10999")
        low, high = int(first), int(last)
        if not 1024 <= low < high <= 65_535:
            raise ConfigError(
                f"--rtp-ports is '{self.rtp_ports}'; it takes a range within 1024-65535, the smaller port first"
            )
        return low, high


def option_name(option: Option) -> str:
    """The long flag of an option: what error texts and the configuration file call it."""
    return option.flags[-1]


def check_range(name: str, value: object, option: Option) -> None:
    """Raise ``ConfigError`` when a number lies outside the option's range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if (option.low is not None and value < option.low) or (option.high is not None and value > option.high):
        raise ConfigError(f"{name} is {value}; it takes a value from {option.low:g} to {option.high:g}")


def options() -> list[tuple[str, object, Option]]:
    """Name, default and option of every setting, in the order of declaration."""
    return [
        (item.name, item.default, cast(Option, item.metadata["option"]))
        for item in fields(Settings)
        if "option" in item.metadata
    ]


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where this platform keeps a program's data."""
    home = Path(environ.get("HOME", "~")).expanduser()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "aiphone"
    return Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "aiphone"


def default_models_dir(environ: Mapping[str, str]) -> Path:
    """Where models are kept: a cache that checkouts, environments and data directories share."""
    home = Path(environ.get("HOME", "~")).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "aiphone" / "models"
