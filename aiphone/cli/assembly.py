"""Puts the parts together: loads the models, starts the threads, and takes everything down again.

The one place that knows the concrete class of every stage. ``load`` is slow and may run off the main thread; ``start``
and ``stop`` belong to the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aiphone import events as ev
from aiphone.cli.language_model import language_model_name, make_language_model
from aiphone.cli.memory import Memory
from aiphone.cli.personas import default_persona, personas_by_line
from aiphone.cli.voices import VoicesOfPersonas, load_voices
from aiphone.clock import Clock, SystemClock
from aiphone.config import LineSettings, Settings
from aiphone.conversation.call import Stages
from aiphone.conversation.facts import Fact, Watcher, WordsSaid
from aiphone.conversation.switchboard import Switchboard
from aiphone.cores import Cores
from aiphone.errors import ConfigError, ModelError, NetworkError
from aiphone.inference.llm import LanguageModel
from aiphone.inference.openai_model import OpenAiModel
from aiphone.inference.stt import SpeechToText
from aiphone.inference.tts import SpeechSynthesiser
from aiphone.mailbox import Mailbox
from aiphone.media.engine import MediaEngine
from aiphone.media.ports import RtpPortPool
from aiphone.media.stun import StunClient
from aiphone.models.resolve import resolve_onnx, resolve_whisper
from aiphone.models.store import ModelStore
from aiphone.persona import Persona
from aiphone.server.talk import CallRouter, TalkBridge
from aiphone.sip.addresses import address_of_ours, is_loopback
from aiphone.sip.agent import SipAgent
from aiphone.sip.settings import CallPolicy, LineConfig, SipSettings, TlsSettings
from aiphone.speech.echo import EchoGate
from aiphone.speech.listener import Listener
from aiphone.speech.speakable import speakable
from aiphone.speech.turn_end import SmartTurn, TurnEndDetector
from aiphone.speech.vad import SileroVad
from aiphone.speech.voice_detector import DetectorSettings
from aiphone.store.sessions import SessionStore, SessionWriter
from aiphone.store.transcript_file import TranscriptFile

log = logging.getLogger(__name__)

TURN_END = "smart-turn-v3.2"

Post = Callable[[ev.Event], None]
Step = Callable[[str], None]
"""Told of each thing that is being loaded, for people who wait."""


@dataclass(slots=True)
class Models:
    """The loaded models and the threads that run them."""

    recogniser: SpeechToText
    model: LanguageModel | OpenAiModel
    synthesiser: SpeechSynthesiser
    vad: SileroVad
    turn_end: TurnEndDetector | None
    whisper_path: Path
    llm_name: str
    voice_name: str
    voices: VoicesOfPersonas

    def close(self) -> None:
        """Stop the workers and give the models back."""
        if self.turn_end is not None:
            self.turn_end.close()
        self.voices.close()
        self.recogniser.close()
        self.synthesiser.close()
        self.model.stop()


def load_models(settings: Settings, persona: Persona, greetings: set[str], post: Post, step: Step) -> Models:
    """Load everything a call needs, and synthesise the greetings. Any thread; takes seconds.

    Raises ``ModelError``, ``SpeechError`` or ``InferenceError`` with the sentence to show.
    """
    clock, cores = SystemClock(), Cores()
    store = ModelStore(Path(settings.models_dir))
    whisper_path = resolve_whisper(settings.model_whisper, store)
    llm_name = language_model_name(settings, store)
    vad_path = resolve_onnx("silero", "vad", store)
    with contextlib.ExitStack() as undo:
        step(f"speech to text: {whisper_path.name}")
        recogniser = SpeechToText(
            whisper_path,
            post=post,
            clock=clock,
            threads=settings.threads,
            cores=cores,
            language=settings.language,
            translate=settings.translate,
            audio_ctx=settings.audio_ctx,
            max_tokens=settings.max_tokens,
            use_gpu=not settings.no_gpu,
            flash_attn=settings.flash_attn,
        )
        undo.callback(recogniser.close)
        recogniser.warm_up()
        step(f"language model: {llm_name}")
        model = make_language_model(settings, store, post=post, clock=clock, cores=cores)
        undo.callback(model.stop)
        model.start()
        voices = load_voices(settings, store)
        step(f"voice: {voices[0].name}")
        synthesiser = SpeechSynthesiser(
            voices,
            post=post,
            clock=clock,
            fallback=voices[-1] if len(voices) > 1 else None,
            prepare=speakable,
            threads=settings.threads,
            cores=cores,
        )
        undo.callback(synthesiser.close)
        for text in sorted(
            greetings | {persona.fill(text) for text in (persona.idle_prompt, persona.apology, persona.filler)}
        ):
            if text.strip():
                synthesiser.speak_now(text)
        vad = SileroVad(vad_path)
        turn_end = load_turn_end(store, post, clock, cores)
        wanted = VoicesOfPersonas(synthesiser, voices[0], store, settings.threads)
        models = Models(recogniser, model, synthesiser, vad, turn_end, whisper_path, llm_name, voices[0].name, wanted)
        undo.pop_all()
    return models


def load_turn_end(store: ModelStore, post: Post, clock: SystemClock, cores: Cores) -> TurnEndDetector | None:
    """The turn-end model on its thread; None when it was not fetched: calls go without it, a little slower."""
    try:
        model = SmartTurn(resolve_onnx(TURN_END, "turn-end", store))
        return TurnEndDetector(model, post=post, clock=clock, cores=cores)
    except ModelError as error:
        log.warning("the words alone tell the end of a turn, without a turn-end model: %s", error)
        return None


@dataclass(slots=True)
class Phone:
    """The running system: everything between the SIP port and the models. Main thread only."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    clock: SystemClock = field(default_factory=SystemClock)
    mailbox: Mailbox[ev.Event | ev.LineChanged] = field(init=False)
    persona: Persona = field(init=False)
    by_line: dict[str, Persona] = field(init=False)
    models: Models | None = None
    engine: MediaEngine | None = None
    listener: Listener | None = None
    sip: SipAgent | None = None
    switchboard: Switchboard | None = None
    talk: TalkBridge | None = None
    sessions: SessionWriter | None = None
    session_store: SessionStore | None = None
    watchers: list[Watcher] = field(default_factory=list)
    """Told every fact, in order; add to it before ``start``."""
    persona_named: Callable[[str], Persona] | None = None
    """Who has a name, for numbers that have a persona of their own."""
    persona_for: Callable[[str], Persona] | None = None
    """Who answers a line, when that is not for the settings alone to say."""
    transcript: TranscriptFile | None = None
    memory: Memory | None = None

    def __post_init__(self) -> None:
        self.mailbox = Mailbox(self._wake)
        self.persona = default_persona(self.settings)
        self.by_line = personas_by_line(self.settings, self.persona)

    # ------------------------------------------------------------------------------------------ start

    def load(self, step: Step) -> None:
        """Load the models. Any thread."""
        personas = (self.persona, *self.by_line.values())
        greetings = {p.fill(text) for p in personas for text in (p.greeting, p.greeting_again)}
        self.models = load_models(self.settings, self.persona, greetings, self._post, step)

    def start(self) -> None:
        """Take calls from now on. Raises ``NetworkError`` or ``SipError`` when the ports are not to be had."""
        settings = self.settings
        assert self.models is not None, "load first"
        host = sip_host(settings)
        if settings.file:
            self.transcript = TranscriptFile(Path(settings.file))
        if settings.session:
            self.session_store = SessionStore(
                Path(settings.session),
                max_bytes=settings.session_megabytes << 20,
                max_age=settings.session_days * 86_400.0 or None,
            )
            self.sessions = SessionWriter(self.session_store)
            self.memory = Memory(self.session_store, self.sessions, self.models.model)
        stun, public = public_side(settings, self.clock)
        ports = RtpPortPool(host, *settings.rtp_range(), stun=stun)
        self.engine = MediaEngine(
            settings.max_calls, rtp_timeout=settings.rtp_timeout, comfort_noise_dbfs=settings.comfort_noise or None
        )
        self.engine.start()
        self.loop.add_reader(self.engine.fileno(), self._engine_events)
        self.listener = Listener(self.engine, self.models.vad, self._post)
        self.listener.start()
        self.sip = SipAgent(sip_settings(settings, host, public), ports, self._post, self.clock)
        self.sip.start()
        self.talk = TalkBridge(RtpPortPool("127.0.0.1", *settings.rtp_range()), self._post, self.clock, self.loop)
        self.switchboard = Switchboard(
            Stages(
                clock=self.clock,
                timers=self.loop,
                media=self.engine,
                listener=_Ears(self.listener, DetectorSettings.from_threshold(settings.vad_threshold)),
                recogniser=self.models.recogniser,
                model=self.models.model if self.memory is None else self.memory,
                synthesiser=self.models.synthesiser,
                sip=CallRouter(self.sip, self.talk),
                memory=self.memory,
                turn_end=self.models.turn_end,
            ),
            max_calls=min(settings.max_calls, self.sip.status().max_calls),
            persona_for=self.persona_for or (lambda line: self.by_line.get(line, self.persona)),
            persona_named=self.persona_named,
            close_sockets=ports.close,
            watch=self._watch,
        )
        for line in settings.lines:
            if line.enabled:
                self.sip.add_line(line_config(line))

    def prepare_speech(self, personas: Iterable[Persona]) -> None:
        """Load the voices of these personas and speak what they say by themselves, in the background, so that the
        next caller does not wait."""
        if self.models is not None:
            self.models.voices.rehearse(personas)

    # ----------------------------------------------------------------------------------------- events

    def _post(self, event: ev.Event | ev.LineChanged) -> None:
        """How every worker thread reaches this one."""
        self.mailbox.post(event)

    def _wake(self) -> None:
        # A worker may post its last event after the loop was closed; nobody waits for it then.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._mail)

    def _mail(self) -> None:
        for event in self.mailbox.drain():
            self._dispatch(event)

    def _engine_events(self) -> None:
        assert self.engine is not None
        for event in self.engine.events():
            self._dispatch(event)

    def _dispatch(self, event: ev.Event | ev.LineChanged) -> None:
        if self.memory is not None and self.memory.take(event):
            return
        if self.switchboard is not None:
            self.switchboard.dispatch(event)

    def _watch(self, fact: Fact) -> None:
        for watch in self.watchers:
            watch(fact)
        if self.transcript is not None and isinstance(fact, WordsSaid):
            who = self.persona.caller_name if fact.role == "user" else self.persona.name
            self.transcript.add(fact.record.call_id, who, fact.text)

    # ------------------------------------------------------------------------------------------- stop

    async def stop(self, patience: float = 2.0) -> None:
        """Say goodbye to callers, unregister, save, and give everything back; a few seconds at most."""
        if self.switchboard is not None:
            self.switchboard.hang_up_all()
            for _ in range(round(patience / 0.02)):
                if not self.switchboard.active:
                    break
                await asyncio.sleep(0.02)
        if self.talk is not None:
            self.talk.close()
        if self.sip is not None:
            await self.loop.run_in_executor(None, partial(self.sip.stop, 3.0))
            self._mail()
        if self.listener is not None:
            self.listener.stop()
        if self.engine is not None:
            self.loop.remove_reader(self.engine.fileno())
            self.engine.stop()
        if self.models is not None:
            await self.loop.run_in_executor(None, self.models.close)
            self._mail()
        if self.sessions is not None:
            await self.loop.run_in_executor(None, self.sessions.close)
        if self.session_store is not None:
            self.session_store.close()
        if self.transcript is not None:
            self.transcript.close()


class _Ears:
    """The listener with the detector's settings filled in."""

    def __init__(self, listener: Listener, settings: DetectorSettings) -> None:
        self._listener = listener
        self._settings = settings

    def attach(self, call_id: str, call: object, echo: EchoGate, *, tones: bool = False) -> None:
        self._listener.attach(call_id, call, self._settings, echo, tones=tones)  # type: ignore[arg-type]

    def detach(self, call_id: str) -> None:
        self._listener.detach(call_id)


ANY_HOST = "any"
"""``--sip-host`` for every address in both families."""


def sip_host(settings: Settings) -> str:
    """The address to listen on at the start; ``auto`` is loopback, or every address when callers elsewhere may come.

    What lines need is opened when they are started (``reaches_out``).
    """
    if settings.sip_host == ANY_HOST:
        return "0.0.0.0"
    if settings.sip_host != "auto":
        return settings.sip_host
    return "127.0.0.1" if settings.direct_from in ("local", "none") else "0.0.0.0"


def reaches_out(settings: Settings) -> bool:
    """Whether our address towards a line's server is listened on as well, once there is such a line."""
    return settings.sip_host == "auto" and is_loopback(sip_host(settings))


def check_sip_port(settings: Settings) -> None:
    """Whether the SIP port is to be had, before the models are loaded. Raises ``NetworkError``."""
    for host in (sip_host(settings), *line_hosts(settings)):
        _check_port(host, settings)


def line_hosts(settings: Settings) -> list[str]:
    """Our addresses towards the servers of configured lines that ``sip_host`` does not reach."""
    if not reaches_out(settings):
        return []
    hosts = []
    for line in settings.lines:
        # Without a network now there may be one later: the line says so, and tries again.
        with contextlib.suppress(NetworkError):
            hop = line_config(line).next_hop
            if line.enabled and not is_loopback(hop):
                hosts.append(address_of_ours(hop))
    return [host for host in dict.fromkeys(hosts) if not is_loopback(host)]


def _check_port(host: str, settings: Settings) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, settings.sip_port))
            except OSError as error:
                name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
                raise NetworkError(_why_not(error, host, settings.sip_port, name)) from None


def _why_not(error: OSError, host: str, port: int, kind: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"SIP port {port} ({kind}) is in use by another program; stop it, or choose another with --sip-port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; check --sip-host"
    reason = error.strerror or str(error)
    return f"SIP port {port} ({kind}) on {host} cannot be opened ({reason}); check --sip-host and --sip-port"


def public_side(settings: Settings, clock: Clock) -> tuple[StunClient | None, str]:
    """Who tells how others see us, and our public address; without an answer there is no such address.

    That is no reason not to start: telephones in the house do not need it.
    """
    if not settings.stun:
        return None, settings.public_address
    try:
        stun = StunClient(settings.stun, clock)
        public = settings.public_address or stun.public_address()
    except NetworkError as error:
        log.error("%s; calls from outside may have no audio", error)
        return None, settings.public_address
    log.info("our public address is %s, as the STUN server %s sees it", public, settings.stun)
    return stun, public


def sip_settings(settings: Settings, host: str, public: str) -> SipSettings:
    """The SIP side's settings; ``public`` is our address out there, empty where it is not another one.

    Raises ``ConfigError`` for a ``--direct-from`` that is none.
    """
    networks = {"local": (), "none": (), "any": ("0.0.0.0/0", "::/0")}.get(settings.direct_from)
    if networks is None:
        networks = tuple(part.strip() for part in settings.direct_from.split(","))
    try:
        return SipSettings(
            host=host,
            both_families=settings.sip_host == ANY_HOST,
            reach_out=reaches_out(settings),
            port=settings.sip_port,
            public_address=public,
            max_calls=settings.max_calls,
            direct_line=settings.direct_from != "none",
            direct_networks=networks,
            tls=TlsSettings(
                port=settings.sip_tls_port,
                certificate=settings.sip_tls_cert,
                key=settings.sip_tls_key,
                authorities=settings.sip_tls_ca,
                verify=not settings.sip_tls_no_verify,
            ),
        )
    except ConfigError as error:
        if "direct-line networks" in str(error):
            message = f"--direct-from is '{settings.direct_from}'; it takes local, any, none or networks"
            raise ConfigError(message) from None
        raise


def line_config(line: LineSettings) -> LineConfig:
    """A line of the configuration file, as the SIP side takes it."""
    return LineConfig(
        line_id=line.client_id,
        username=line.username,
        password=line.password,
        server_ip=line.server_ip,
        server_port=line.server_port,
        display_name=line.display_name,
        auto_answer=line.auto_answer,
        greeting=line.greeting or None,
        transport=line.transport,
        auth_username=line.auth_username,
        proxy=line.proxy,
        allowed_networks=line.allowed_networks,
        policy=CallPolicy(
            answer_after=line.answer_after,
            early_media=line.early_media,
            max_calls=line.max_calls,
            allow=line.allow,
            deny=line.deny,
            anonymous=line.anonymous,
            trust_identity=line.trust_identity,
            transfers=line.transfers,
            personas=tuple((number, persona) for number, _, persona in (one.partition("=") for one in line.personas)),
            srtp=line.srtp,
        ),
    )


def with_free_ports(settings: Settings) -> Settings:
    """The same settings on ports that nobody uses: for a second instance beside a running one (the doctor)."""
    return replace(settings, sip_port=0, http_port=0)


def lines_of(settings: Settings) -> Iterator[tuple[str, str]]:
    """Id and name of every configured line."""
    for line in settings.lines:
        yield line.client_id, line.display_name or line.username
