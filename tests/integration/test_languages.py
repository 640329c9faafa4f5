"""Languages for real: the multilingual starter model on Spanish and French telephone prompts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from inbox import Inbox

from aiphone.clock import SystemClock
from aiphone.errors import ConfigError
from aiphone.events import Pcm, Transcribed
from aiphone.inference.stt import SpeechToText
from benchmarks.stt_corpus import SOUNDS, read_wav, upsample

pytestmark = pytest.mark.integration

PLACES = {
    "es": ("es_MX_f_Allison", "asterisk-core-sounds-es-wav"),
    "fr": ("fr_CA_f_June", "asterisk-core-sounds-fr-wav"),
}
INVALID = {
    "es": "lo siento esa es una extension invalida por favor intente de nuevo",
    "fr": "desole ce numero de poste n'est pas valide veuillez essayer de nouveau",
}
SORRY = {"es": "lo siento no comprendi su respuesta", "fr": "desole je n'ai pas bien compris votre reponse"}


def prompt(language: str, name: str) -> Pcm:
    """A recorded prompt at 16 kHz."""
    folder, package = PLACES[language]
    path = SOUNDS.parent / folder / f"{name}.wav"
    if not path.is_file():
        pytest.skip(f"needs recorded speech: apt-get install {package}")
    return upsample(read_wav(path))


def plain(text: str) -> list[str]:
    """Words without accents, case and punctuation."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(c))
    return re.findall(r"[a-z0-9']+", bare)


def understood(text: str, expected: str) -> float:
    """The share of the expected words that were heard."""
    heard = plain(text)
    return float(np.mean([word in heard for word in expected.split()]))


class Ears:
    """A recogniser, and the final transcripts of each call."""

    def __init__(self, model: Path, language: str, *, translate: bool = False) -> None:
        self._inbox = Inbox(60.0)
        self.stt = SpeechToText(
            model,
            post=self._inbox.post,
            clock=SystemClock(),
            threads=2,
            workers=2,
            language=language,
            translate=translate,
        )

    def hear(self, *turns: tuple[str, Pcm]) -> list[Transcribed]:
        """Each call's turn, all at once; the transcripts in the same order."""
        self._inbox.events.clear()
        for call, pcm in turns:
            self.stt.submit(call, 1, pcm)
        found = {event.call_id: event for event in self._inbox.wait(len(turns))}
        transcribed = [found[call] for call, _ in turns]
        assert all(isinstance(event, Transcribed) for event in transcribed), transcribed
        return transcribed  # type: ignore[return-value]


@pytest.fixture(scope="module")
def base(model_file: Callable[[str], Path]) -> Path:
    return model_file("ggml-base.bin")


@pytest.fixture(scope="module")
def auto(base: Path) -> Iterator[Ears]:
    ears = Ears(base, "auto")
    yield ears
    ears.stt.close()


def test_each_call_s_language_is_found_out_once_and_kept(auto: Ears) -> None:
    spanish, french = auto.hear(("one", prompt("es", "pbx-invalid")), ("two", prompt("fr", "pbx-invalid")))
    assert (spanish.language, french.language) == ("es", "fr")
    assert understood(spanish.text, INVALID["es"]) > 0.8, spanish.text
    assert understood(french.text, INVALID["fr"]) > 0.7, french.text
    # What comes next in the other's language is still heard in the call's own.
    spanish, french = auto.hear(("one", prompt("fr", "vm-sorry")), ("two", prompt("fr", "vm-sorry")))
    assert (spanish.language, french.language) == ("es", "fr")
    assert understood(french.text, SORRY["fr"]) > 0.7, french.text


def test_a_persona_s_language_needs_no_finding_out(auto: Ears) -> None:
    auto.stt.begin("three", language="es")
    (heard,) = auto.hear(("three", prompt("es", "vm-sorry")))
    assert heard.language == "es"
    assert understood(heard.text, SORRY["es"]) > 0.7, heard.text


def test_what_is_said_is_translated_to_english(base: Path) -> None:
    ears = Ears(base, "es", translate=True)
    try:
        (heard,) = ears.hear(("one", prompt("es", "pbx-invalid")))
    finally:
        ears.stt.close()
    assert {"please", "try", "again", "extension"} <= set(plain(heard.text)), heard.text
    assert not {"siento", "nuevo", "favor"} & set(plain(heard.text)), heard.text
    assert [word.text.strip() for word in heard.words] == heard.text.split()


def test_a_model_for_english_says_what_other_languages_need(model_file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.en.* knows English only; for -l es give .* -mw base"):
        SpeechToText(model_file("ggml-tiny.en.bin"), post=lambda _: None, clock=SystemClock(), threads=1, language="es")
