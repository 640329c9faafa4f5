"""The shapes of what the API takes and gives: the one description that checks requests and makes the document."""

from __future__ import annotations

from aiphone.actions import KINDS
from aiphone.persona import Persona
from aiphone.server.schema import TEXT, Field, Schema

NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"
HOST = r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?|[0-9A-Fa-f]*:[0-9A-Fa-f:]+"
URI = r"(sips?:)?[A-Za-z0-9_.!~*'()&=+$,;?/%#\-]+(@[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?(:[0-9]{1,5})?)?"

_P = Persona()


def _text(name: str, text: str, high: int = 200, default: object = "", **more: object) -> Field:
    return Field(name, "string", text, default, high=high, **more)  # type: ignore[arg-type]


def _answer(name: str, kind: str, text: str, **more: object) -> Field:
    return Field(name, kind, text, read_only=True, **more)  # type: ignore[arg-type]


VERSION = _answer("version", "integer", "Rises with every change; the same number is in the ETag.")

# ---------------------------------------------------------------------------------------------- errors

FIELD_PROBLEM = Schema(
    "FieldProblem",
    "A field that is wrong.",
    (
        Field("field", "string", "Its name."),
        Field("problem", "string", "What is wrong with it."),
        Field("expected", "string", "What would be right."),
    ),
)
ERROR_DETAIL = Schema(
    "ErrorDetail",
    "What went wrong, in one sentence for people.",
    (
        Field("status", "integer", "The HTTP status."),
        Field("message", "string", "One sentence that names the thing and the cure."),
        Field("fields", "array", "With status 422: every field that is wrong.", None, of=FIELD_PROBLEM),
    ),
)
ERROR = Schema("Error", "Every error looks like this.", (Field("error", "object", "The error.", of=ERROR_DETAIL),))

# ----------------------------------------------------------------------------------------- SIP clients

SIP_CLIENT = Schema(
    "SipClient",
    "An account at a PBX or SIP provider (a line).",
    (
        Field(
            "client_id",
            "string",
            "Its name here; fixed once made.",
            low=1,
            high=64,
            pattern=NAME,
            expected="letters, digits, '-', '_' and '.', at most 64, as in reception",
        ),
        Field(
            "username",
            "string",
            "Account name at the server.",
            low=1,
            high=128,
            pattern=r"[^\x00-\x20\x7f@<>\x22]+",
            expected="the account's name without '@' and spaces, as in 1001",
        ),
        Field(
            "password",
            "string",
            "Password of the account. Never given out; leave it out to keep it.",
            "",
            high=256,
            write_only=True,
        ),
        Field(
            "server_ip",
            "string",
            "Address or name of the server.",
            low=1,
            high=253,
            pattern=HOST,
            expected="an address or a host name, as in 192.168.1.10 or pbx.example.org",
        ),
        Field("server_port", "integer", "SIP port of the server.", 5060, low=1, high=65535),
        _text("display_name", "Name that is shown to who is called."),
        Field("auto_answer", "boolean", "Answer calls by itself.", True),
        _text(
            "greeting",
            "First words of a call; empty is the persona's greeting. {name} and {caller} are filled in.",
            1000,
            pattern=TEXT,
        ),
        Field(
            "transport",
            "string",
            "How SIP travels to the server; tls is encrypted, and often on port 5061.",
            "udp",
            choices=("udp", "tcp", "tls"),
        ),
        Field(
            "srtp",
            "string",
            "Encrypt what is said (SRTP, keys in SDP: RFC 4568); optional takes calls without it, too.",
            "off",
            choices=("off", "optional", "mandatory"),
        ),
        _text("auth_username", "Name for authentication where it differs from username.", 128),
        _text(
            "proxy",
            "Outbound proxy, host or host:port.",
            260,
            pattern=r"(([A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?)(:[0-9]{1,5})?)?",
            expected="host or host:port, or nothing",
        ),
        _text(
            "persona",
            "Name of the persona that answers; empty is the default one.",
            64,
            pattern=rf"({NAME})?",
            expected="the name of a persona, or nothing",
        ),
        Field("enabled", "boolean", "May be started.", True),
        _answer("started", "boolean", "It was started, and starts again with the server."),
        _answer(
            "state",
            "string",
            "Where the registration stands.",
            choices=("stopped", "registering", "registered", "failed"),
        ),
        _answer("reason", "string", "Why, in plain words; empty when all is well."),
        _answer("since", "number", "When it came into this state, Unix time.", nullable=True),
        _answer("has_password", "boolean", "A password is stored."),
        VERSION,
    ),
)
SIP_CLIENT_CHANGE = SIP_CLIENT.fixed("SipClientChange", "client_id")
SIP_CLIENTS = Schema(
    "SipClients", "All SIP clients.", (Field("sip_clients", "array", "In the order of their ids.", of=SIP_CLIENT),)
)

# --------------------------------------------------------------------------------------------- personas

PERSONA = Schema(
    "Persona",
    "Who answers. A change takes effect with the next call.",
    (
        Field(
            "name",
            "string",
            "Its name here; fixed once made.",
            low=1,
            high=64,
            pattern=NAME,
            expected="letters, digits, '-', '_' and '.', at most 64, as in reception",
        ),
        _text("bot_name", "What the assistant calls itself.", 100, _P.name, low=1),
        _text("caller_name", "What the transcript calls the other side.", 100, _P.caller_name, low=1),
        _text("prompt", "System prompt. {name} and {caller} are filled in.", 8000, _P.prompt, pattern=TEXT),
        _text("greeting", "First words of a call.", 1000, _P.greeting, pattern=TEXT),
        _text("greeting_again", "First words to a remembered caller; empty is the same.", 1000, pattern=TEXT),
        Field("remember", "boolean", "Keep conversations from call to call, with a session file.", _P.remember),
        _text(
            "language",
            "Spoken language, or auto; empty is that of -l.",
            8,
            _P.language,
            pattern=r"([a-z]{2,3}|auto)?",
            expected="a language code such as en, or auto",
        ),
        _text("vocabulary", "Names and words that callers are likely to say; they are understood better.", 500),
        _text("voice", "A voice's name; empty is the default one.", 100),
        Field("speed", "number", "How fast it speaks; 1 is the voice's own pace.", _P.speed, low=0.5, high=2),
        Field("temperature", "number", "0 is greedy.", _P.sampling.temperature, low=0, high=5),
        Field("top_k", "integer", "Choose among this many tokens.", _P.sampling.top_k, low=0, high=100_000),
        Field(
            "top_p", "number", "Choose among tokens that make up this probability.", _P.sampling.top_p, low=0, high=1
        ),
        Field(
            "min_p",
            "number",
            "Least probability, as a share of the likeliest token's.",
            _P.sampling.min_p,
            low=0,
            high=1,
        ),
        Field("seed", "integer", "Random seed.", _P.sampling.seed, low=0, high=2**32 - 1),
        Field("max_tokens", "integer", "Longest answer.", _P.sampling.max_tokens, low=1, high=4096),
        Field(
            "stop",
            "array",
            "Texts that end an answer; they are not said.",
            (),
            high=8,
            pattern=r"[^\x00-\x1f\x7f]{1,64}",
            expected="a list of at most 8 texts of 1 to 64 characters",
        ),
        Field(
            "patience",
            "number",
            "Seconds of silence that end the caller's turn, when neither voice nor words say more.",
            _P.patience,
            low=0.1,
            high=10,
        ),
        Field(
            "patience_floor",
            "number",
            "The same when the turn is over by all signs; never more than patience.",
            _P.patience_floor,
            low=0.1,
            high=10,
        ),
        Field(
            "patience_ceiling",
            "number",
            "The same when it is certainly not over; never less than patience.",
            _P.patience_ceiling,
            low=0.1,
            high=30,
        ),
        Field(
            "interrupt_after",
            "number",
            "Seconds of the caller's voice that stop the assistant.",
            _P.interrupt_after,
            low=0.05,
            high=60,
        ),
        _text("filler", "Said once when an answer takes long; empty is nothing.", 1000, _P.filler, pattern=TEXT),
        Field(
            "filler_after",
            "number",
            "Seconds from the caller's last sound until the filler is said.",
            _P.filler_after,
            low=0.5,
            high=60,
        ),
        Field(
            "think_limit",
            "number",
            "Seconds after which an answer that has not begun is given up.",
            _P.think_limit,
            low=1,
            high=300,
        ),
        Field(
            "idle_after",
            "number",
            "Seconds of silence after which idle_prompt is said; 0 is never.",
            _P.idle_after,
            low=0,
            high=3600,
        ),
        Field(
            "idle_limit", "integer", "So many prompts without an answer end the call.", _P.idle_limit, low=1, high=100
        ),
        _text("idle_prompt", "Said into a long silence.", 1000, _P.idle_prompt, pattern=TEXT),
        _text("goodbye", "Last words when nobody answers.", 1000, _P.goodbye, pattern=TEXT),
        _text("apology", "Said when an answer failed.", 1000, _P.apology, pattern=TEXT),
        _text("wake_command", "When set, only turns that begin with it are answered."),
        _text("heard_ok", "Said when the wake command was all that was said."),
        Field(
            "actions",
            "array",
            "What the assistant may do besides talking: hang up, transfer, press (keys), hold.",
            (),
            high=len(KINDS),
            pattern="|".join(KINDS),
            expected="a list of some of " + ", ".join(KINDS),
        ),
        Field(
            "transfers",
            "array",
            "To whom it may transfer; the assistant is told the names.",
            (),
            high=20,
            pattern=r"[a-z][a-z0-9 ]{0,30}=[ ]?sip:[!-~]{1,200}",
            expected="a list of names and addresses, each like sales = sip:sales@example.com",
        ),
        _text("connecting", "Said before a transfer when the model says nothing itself.", 1000, _P.connecting, low=1),
        _text("nobody_there", "Said when a transfer failed.", 1000, _P.nobody_there, low=1),
        Field("max_call_seconds", "number", "Longest call; 0 is without limit.", 0.0, low=0, high=86_400),
        _answer("is_default", "boolean", "It answers lines that name no persona, and cannot be removed."),
        VERSION,
    ),
)
PERSONA_CHANGE = PERSONA.fixed("PersonaChange", "name")
PERSONAS = Schema("Personas", "All personas.", (Field("personas", "array", "The default one first.", of=PERSONA),))

# ------------------------------------------------------------------------------------------------ calls

_DIRECTIONS = ("in", "out", "web")
_CALL_FIELDS = (
    Field("id", "integer", "Its number in the store."),
    Field("line_id", "string", "The SIP client, or direct."),
    Field("caller", "string", "URI of the caller."),
    Field("caller_name", "string", "Name the caller goes by. As it came: escape it."),
    Field("called", "string", "What was called."),
    Field("direction", "string", "Who called: in, out, or web for the browser.", choices=_DIRECTIONS),
    Field("started", "number", "Unix time."),
    Field("answered", "number", "Unix time; null when it was not.", nullable=True),
    Field("ended", "number", "Unix time; null while it goes on.", nullable=True),
    Field("seconds", "number", "From answer to end, or until now.", nullable=True),
    Field("end_code", "integer", "SIP status it ended with; 0 while it goes on.", nullable=True),
    Field("end_reason", "string", "Why it ended, in plain words."),
    Field("has_recording", "boolean", "/recording has audio."),
    Field("call_id", "string", "Its name while it lives; null when it is over.", nullable=True),
)
CALL = Schema("Call", "A call.", _CALL_FIELDS)
CALLS = Schema(
    "Calls",
    "A page of calls, the latest first.",
    (
        Field("calls", "array", "The calls.", of=CALL),
        Field("next", "integer", "Give it as before= for the next page; null at the end.", nullable=True),
    ),
)
PARTS = {
    "patience": "Silence waited for.",
    "transcript": "Speech to text.",
    "first_token": "The language model's first token.",
    "first_phrase": "Its first phrase.",
    "first_audio": "Speech synthesis.",
    "playout": "Until the first packet was sent.",
}
"""The parts of a turn, in their order."""
TURN_PARTS = Schema(
    "TurnParts",
    "Seconds that each stage added; together they are the total.",
    tuple(Field(name, "number", text, None) for name, text in PARTS.items()),
    open=True,
)
TURN = Schema(
    "Turn",
    "What the caller said, what was answered, and how long that took.",
    (
        Field("number", "integer", "From 1."),
        Field("at", "number", "When the caller stopped speaking, Unix time."),
        Field("caller_text", "string", "What the caller said."),
        Field("assistant_text", "string", "What was answered."),
        Field("interrupted", "boolean", "The caller cut the answer short."),
        Field("total", "number", "Seconds from the caller's last sound to the first of the answer."),
        Field("parts", "object", "What the total is made of.", of=TURN_PARTS),
    ),
)
WORD = Schema(
    "Word",
    "A word as it was recognised.",
    (
        Field("text", "string", "As it stands in the line, with its punctuation. Escape it."),
        Field("start", "number", "When it began, in seconds from the answer, to about a tenth."),
        Field("end", "number", "When it ended."),
        Field("probability", "number", "How sure the recogniser is, 0 to 1."),
    ),
)
WORDS = Schema(
    "Words",
    "A line of the conversation.",
    (
        Field("number", "integer", "From 1."),
        Field("role", "string", "user is the caller.", choices=("user", "assistant", "system")),
        Field("text", "string", "As it was said. Escape it."),
        Field("at", "number", "Unix time."),
        Field("offset", "number", "Seconds from the answer (where the recording begins)."),
        Field("interrupted", "boolean", "It was cut short."),
        Field("words", "array", "What the caller said, word by word; empty for the assistant's lines.", of=WORD),
    ),
)
CALL_DETAIL = Schema(
    "CallDetail",
    "A call with everything that is known of it.",
    (
        *_CALL_FIELDS,
        Field("turns", "array", "Turns with their latency.", of=TURN),
        Field("words", "array", "The conversation, line by line.", of=WORDS),
        Field(
            "media",
            "object",
            "Media statistics (RFC 3550): jitter_ms, lost, packets_received, ...; null when unknown.",
            nullable=True,
        ),
    ),
)
TRANSCRIPT = Schema(
    "Transcript",
    "The conversation of a call.",
    (Field("id", "integer", "The call."), Field("words", "array", "Line by line.", of=WORDS)),
)
LIVE_CALL = Schema(
    "LiveCall",
    "A call that is going on.",
    (
        Field("call_id", "string", "Its name while it lives, as in events."),
        Field("id", "integer", "Its number in the store; null until it is there.", nullable=True),
        Field("line_id", "string", "The SIP client, or direct."),
        Field("caller", "string", "URI of the other side."),
        Field("caller_name", "string", "Name it goes by. Escape it."),
        Field("called", "string", "What was called."),
        Field("direction", "string", "Who called.", choices=_DIRECTIONS),
        Field(
            "state",
            "string",
            "waiting, listening, hearing, pausing, thinking, speaking, interrupting, transferring, holding, closing.",
        ),
        Field("started", "number", "Unix time."),
        Field("answered", "number", "Unix time.", nullable=True),
        Field("seconds", "number", "How long it has gone on."),
        Field("level_in", "number", "The caller's level, dBFS from -100."),
        Field("level_out", "number", "The assistant's level, dBFS from -100."),
        Field("last_turn", "number", "Seconds the caller waited for the last answer.", nullable=True),
    ),
)
LIVE_CALLS = Schema("LiveCalls", "The calls going on.", (Field("calls", "array", "Oldest first.", of=LIVE_CALL),))
PLACE_CALL = Schema(
    "PlaceCall",
    "A call to make.",
    (
        Field(
            "uri",
            "string",
            "Whom to call: a number or a SIP URI.",
            low=1,
            high=255,
            pattern=URI,
            expected="a number, as in 1002, or a SIP URI, as in sip:1002@pbx.example.org",
        ),
        Field(
            "line_id",
            "string",
            "The SIP client to call from.",
            low=1,
            high=64,
            pattern=NAME,
            expected="the client_id of a SIP client",
        ),
        Field(
            "message",
            "string",
            "What an answering machine gets after its beep. A person gets the conversation, once they have spoken.",
            "",
            high=2000,
            pattern=TEXT,
        ),
    ),
)
PLACED = Schema("PlacedCall", "A call on its way.", (Field("call_id", "string", "Its name while it lives."),))
HUNG_UP = Schema("HungUp", "The call is over.", (Field("ended", "boolean", "False when it was over before."),))

# -------------------------------------------------------------------------------------- sessions, models

SESSION_FIELDS = (
    Field("key", "string", "Line and caller."),
    Field("updated", "number", "Last call, Unix time."),
    Field("messages", "integer", "How many messages."),
    Field("tokens", "integer", "How many tokens."),
    Field("bytes", "integer", "Room in the file."),
)
SESSION = Schema("Session", "A caller who is remembered.", SESSION_FIELDS)
SESSIONS = Schema("Sessions", "Who is remembered.", (Field("sessions", "array", "The latest first.", of=SESSION),))
SESSION_MESSAGE = Schema(
    "SessionMessage",
    "One message.",
    (Field("role", "string", "system, user or assistant."), Field("content", "string", "Its text.")),
)
SESSION_DETAIL = Schema(
    "SessionDetail",
    "What is remembered of a caller.",
    (
        Field("key", "string", "Line and caller."),
        Field("updated", "number", "Last call, Unix time."),
        Field("messages", "array", "The conversation.", of=SESSION_MESSAGE),
        Field("tokens", "integer", "How many tokens."),
    ),
)
PULL = Schema(
    "Pull",
    "A download.",
    (
        Field("state", "string", "Where it stands.", choices=("pulling", "done", "failed")),
        Field("done", "integer", "Bytes that are here."),
        Field("total", "integer", "Bytes of the whole; 0 when unknown."),
        Field("error", "string", "Why it failed."),
    ),
)
MODEL = Schema(
    "Model",
    "A model that has a name.",
    (
        Field("name", "string", "Its name."),
        Field("role", "string", "What it is for: whisper, llm, voice, vad, ..."),
        Field("size", "integer", "Bytes."),
        Field("installed", "boolean", "It is here."),
        Field("chosen", "boolean", "It is used after the next start, unless a flag names another."),
        Field("in_use", "boolean", "Calls use it now."),
        Field("starter", "boolean", "It belongs to the set for a first call."),
        Field("licence", "string", "Its licence."),
        Field("good_for", "string", "What it is good for."),
        Field("pull", "object", "The last download; null without one.", nullable=True, of=PULL),
    ),
)
MODELS = Schema("Models", "The catalogue.", (Field("models", "array", "The models.", of=MODEL),))
CHOSEN = Schema(
    "Chosen",
    "The model was chosen.",
    (
        Field("name", "string", "Its name."),
        Field(
            "restart_needed", "boolean", "It is used after the next start of the server; until then, the one before."
        ),
    ),
)

# ------------------------------------------------------------------------------------- settings, status

SETTINGS = Schema(
    "Settings",
    "What an owner may change while the phone runs.",
    (
        Field("keep_calls_days", "integer", "Days to keep the list of calls; 0 is for ever.", 0, low=0, high=36_500),
        Field("keep_transcripts_days", "integer", "Days to keep what was said; 0 is for ever.", 0, low=0, high=36_500),
        Field("keep_recordings_days", "integer", "Days to keep recordings; 0 is for ever.", 30, low=0, high=36_500),
        Field("record_calls", "boolean", "Record calls.", False),
        Field(
            "allowed_hosts",
            "array",
            "Further names under which the page is opened.",
            [],
            high=50,
            pattern=r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?",
            expected="a list of host names, as in phone.example.org",
        ),
        Field("guide_done", "boolean", "The first-run guide was finished.", False),
    ),
)
STATUS = Schema(
    "Status",
    "The running system.",
    (
        Field("ready", "boolean", "Calls are taken."),
        Field("version", "string", "Version of the program."),
        Field("warnings", "array", "Sentences worth acting on."),
    ),
    open=True,
)
PERCENTILES = Schema(
    "Percentiles",
    "Of a set of durations, in seconds.",
    tuple(Field(name, "number", text) for name, text in (("p50", "Median."), ("p95", "95th."), ("p99", "99th."))),
)
PART_PERCENTILES = Schema(
    "PartPercentiles",
    "Percentiles of each part of a turn; a part without turns is left out.",
    tuple(Field(name, "object", "See TurnParts.", None, of=PERCENTILES) for name in PARTS),
)
LATENCY_POINT = Schema(
    "LatencyPoint",
    "Latency of the turns of one stretch of time; stretches without a turn are left out.",
    (
        Field("at", "number", "Its beginning, Unix time."),
        Field("turns", "integer", "Turns in it."),
        Field("p50", "number", "Median seconds of a turn."),
        Field("p95", "number", "95th percentile."),
        Field("p99", "number", "99th percentile."),
    ),
)
HOUR = Schema(
    "Hour",
    "Calls that began within one hour.",
    (
        Field("at", "number", "Its beginning, Unix time."),
        Field("calls", "integer", "Calls."),
        Field("answered", "integer", "Those that were answered."),
        Field("seconds", "number", "Length of the answered calls together."),
    ),
)
DASHBOARD = Schema(
    "Dashboard",
    "What the first page shows.",
    (
        Field("active_calls", "integer", "Calls now."),
        Field("max_calls", "integer", "Most calls at once."),
        Field("since", "number", "Begin of the time shown, Unix time."),
        Field("hours", "array", "Calls over that time; hours without a call are left out.", of=HOUR),
        Field("turns", "integer", "Turns in that time."),
        Field("interrupted", "integer", "Answers that the caller talked over."),
        Field(
            "latency",
            "object",
            "Of whole turns (of very many, those of an even sample); null when there were none.",
            of=PERCENTILES,
            nullable=True,
        ),
        Field("parts", "object", "Of each part of a turn.", of=PART_PERCENTILES),
        Field("points", "array", "Latency over that time.", of=LATENCY_POINT),
        Field(
            "load", "array", "The machine's load over 1, 5 and 15 minutes; empty where it is not known.", items="number"
        ),
        Field("cores", "integer", "Processors."),
        Field("lines", "array", "SIP clients and their states.", of=SIP_CLIENT),
        Field("pjsua2", "object", "SIP stack, as in Status: version, call_limit, note.", nullable=True),
        Field("models", "object", "Models in use, as in Status."),
        Field("warnings", "array", "Sentences worth acting on."),
    ),
)

# ---------------------------------------------------------------------------------------- who may enter

ROLES = ("read", "operate", "admin")
SIGN_IN = Schema(
    "SignIn", "The password.", (Field("password", "string", "The owner's password.", low=1, high=1024, pattern=TEXT),)
)
ME = Schema(
    "Me",
    "Who asks, and what they may do.",
    (
        Field("password_required", "boolean", "A password is set: sign in."),
        Field("signed_in", "boolean", "All doors that the role opens are open."),
        Field(
            "role",
            "string",
            "read: look; operate: also calls; admin: also changes. Null when not signed in.",
            choices=ROLES,
            nullable=True,
        ),
        Field(
            "csrf_token",
            "string",
            "To be sent as X-CSRF-Token with every POST, PUT, PATCH and DELETE; empty when none is needed.",
        ),
    ),
)
NEW_TOKEN = Schema(
    "NewToken",
    "A token for a program.",
    (
        Field("name", "string", "What it is for.", low=1, high=100),
        Field("role", "string", "What it may do.", choices=ROLES),
    ),
)
TOKEN_FIELDS = (
    Field("id", "string", "Names the token; is not the secret."),
    Field("name", "string", "What it is for."),
    Field("role", "string", "What it may do.", choices=ROLES),
    Field("created", "number", "Unix time."),
)
TOKEN = Schema("Token", "A token, without its secret.", TOKEN_FIELDS)
TOKENS = Schema("Tokens", "All tokens.", (Field("tokens", "array", "Oldest first.", of=TOKEN),))
TOKEN_SECRET = Schema(
    "TokenSecret",
    "A new token. The secret is shown this once.",
    (*TOKEN_FIELDS, Field("token", "string", "Send it as 'Authorization: Bearer ...'.")),
)
AUDIT = Schema(
    "Audit",
    "What was done, the latest first.",
    (
        Field(
            "entries",
            "array",
            "At most as many as were asked for.",
            of=Schema(
                "AuditEntry",
                "Who did what.",
                (
                    Field("id", "integer", "Rises with time."),
                    Field("at", "number", "Unix time."),
                    Field("actor", "string", "owner, terminal, or a token's name."),
                    Field("action", "string", "What was done, such as add, change, delete, start, hang up."),
                    Field("target", "string", "To what."),
                    Field("detail", "string", "More about it; never a password."),
                ),
            ),
        ),
        Field("next", "integer", "before of the next page; null when this is the last.", None, nullable=True),
    ),
)
FORGET = Schema(
    "ForgetCaller", "Whom to forget.", (Field("caller", "string", "URI of the caller, as in a call.", low=1, high=255),)
)
FORGOTTEN = Schema(
    "Forgotten",
    "What was removed.",
    (Field("calls", "integer", "Calls of that caller."), Field("sessions", "integer", "Remembered conversations.")),
)
