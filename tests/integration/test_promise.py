"""The promise, word for word: a browser, a registrar and a telephone, and nothing of ours in between replaced."""

from __future__ import annotations

import asyncio
import io
import re
import urllib.request
import wave
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, Needs
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from server_process import CAPITAL, Server, in_loop, spoken, transcribed

from aiphone.caller import Caller, Credentials, OutgoingCall
from aiphone.caller.rtp import RATE
from benchmarks.kamailio import Kamailio

pytestmark = pytest.mark.integration

GREETING = "Good morning."
PASSWORDS = {"1001": "correct-horse", "1002": "battery-staple"}
QUIET_BEFORE = 4.0
"""Seconds that the fake microphone is silent: until the greeting is over, also on a busy machine."""


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", text.lower()))


def row_with(page: Browser, light: str, text: str) -> WebElement:
    """The one SIP client's row, once its light and its words are as wanted."""

    def wanted() -> WebElement | None:
        rows = page.all("ul.clients > li", text)
        return rows[0] if rows and rows[0].get_attribute("data-light") == light else None

    found = page.until(wanted, f"a {light} light and {text!r}")
    assert found is not None
    return found


def colour(row: WebElement) -> list[int]:
    """Red, green and blue of a row's light."""
    value = row.find_element(By.CSS_SELECTOR, ".light").value_of_css_property("background-color")
    return [int(part) for part in re.findall(r"\d+", value)[:3]]


def dialogue(page: Browser) -> list[tuple[str, str]]:
    """Who said what ("caller" or "assistant") on the page of a call that is over."""
    page.until(lambda: "still going on" not in page.text(".facts") and page.all(".dialogue .said"), "a call's end")
    return [
        (
            "assistant" if "assistant" in (line.get_attribute("class") or "") else "caller",
            line.find_element(By.CSS_SELECTOR, ".text").text,
        )
        for line in page.all(".dialogue .said")
    ]


def test_the_promise(needs: Needs, tmp_path: Path) -> None:
    """One browser and one registrar for all of it, and two lives of the server: starting these takes the most time."""
    question = spoken(CAPITAL)
    microphone = tmp_path / "question.wav"
    write_microphone(microphone, question)
    flags = ("--data-dir", str(tmp_path / "data"), "--greeting", GREETING)
    flags += ("--filler", "")  # on a busy machine it would be taken for the answer
    chromium, driver = needs("chromium", "chromium"), needs("chromium-driver", "chromedriver")
    with (
        Kamailio(needs("kamailio", "kamailio"), PASSWORDS, tmp_path) as pbx,
        Browser(chromium, driver, tmp_path, microphone=microphone) as page,
    ):
        with Server(*flags) as server:
            port = server.http_port
            page.open(f"http://localhost:{port}/")
            add_the_client(page, pbx)
            start_it(page)
            in_loop(call_it(page, pbx, question))
            read_the_history(page)
            page.go("SIP clients")
            row_with(page, "good", "Registered")
            assert page.errors() == []
            assert "1001" in pbx.registered
            assert server.stop() == 0
            assert "1001" not in pbx.registered
            assert "Traceback" not in server.log
            assert not any(password in server.log for password in (*PASSWORDS.values(), "wrong-password"))
        # The same page, and nobody touches it: the started client comes back with the server.
        page.until(lambda: "does not answer" in page.text("#readiness"), "that the server is away")
        with Server(*flags, http_port=port) as server:
            page.until(lambda: "Ready" in page.text("#readiness"), "that the server is back")
            page.until(lambda: "1001" in pbx.registered, "the client at the registrar again")
            row_with(page, "good", "Registered")
            in_loop(call_again(pbx))
            page.errors()  # that it did not reach the server while that was away
            talk_now(page, server)
            assert page.errors() == []
            assert server.stop() == 0
            assert "Traceback" not in server.log
    assert pbx.routed.count("INVITE for 1001") == 2


def add_the_client(page: Browser, pbx: Kamailio) -> None:
    """With a wrong password, as it happens."""
    page.click("button", "Add New SIP Client")
    page.wait("dialog h2", "Add New SIP Client")
    page.fill("Client ID", "front-desk")
    page.fill("Username", "1001")
    page.fill("Password", "wrong-password")
    page.fill("Server IP", "127.0.0.1")
    page.fill("Server Port", str(pbx.port))
    page.fill("Display Name", "Front desk")
    assert page.field("Auto Answer").is_selected()
    page.fill("Greeting", GREETING)
    page.click("dialog button", "Add SIP Client")
    row = row_with(page, "idle", "Stopped")
    assert "Front desk" in row.text


def start_it(page: Browser) -> None:
    """It turns red and says why; with the right password it turns green."""
    page.click("ul.clients button", "Start")
    red, green, _ = colour(row_with(page, "bad", "wrong user name or password"))
    assert red > green
    page.click("ul.clients button", "Edit")
    page.wait("dialog h2", "Edit front-desk")
    page.fill("Password", PASSWORDS["1001"])
    page.click("dialog button", "Save")
    red, green, _ = colour(row_with(page, "good", "Registered"))
    assert green > red


async def call_it(page: Browser, pbx: Kamailio, question: np.ndarray) -> None:
    """Through the registrar, watched in the live view, until the owner hangs up."""
    await asyncio.to_thread(page.go, "Live")
    async with Caller(user="1002", display_name="Ada", credentials=Credentials("1002", PASSWORDS["1002"])) as caller:
        call = await greeted(caller, pbx)
        assert call.dialog.route, "the call did not come through the registrar"
        asked = await call.play(question)
        reply = await call.wait_reply(after=asked, silence=0.8, timeout=30)

        def watch() -> None:
            card = page.wait(".live-call", "Ada")
            page.until(lambda: {"capital", "france"} <= words(page.text(".live-call .said.caller")), "the question")
            page.until(lambda: "last answer after" in page.text(".live-call footer"), "the latency")
            heard = words(transcribed(reply.pcm))
            seen = words(page.text(".live-call .said.assistant"))
            assert len(heard & seen) >= len(heard) / 2, (heard, seen)
            assert "line front-desk" in card.text
            page.click(".live-call button", "Hang up")
            page.wait("main", "Nobody is on the phone")

        await asyncio.to_thread(watch)
        assert await call.wait_ended() == "remote"


async def call_again(pbx: Kamailio) -> None:
    async with Caller(user="1002", credentials=Credentials("1002", PASSWORDS["1002"])) as caller:
        await (await greeted(caller, pbx)).hangup()


async def greeted(caller: Caller, pbx: Kamailio) -> OutgoingCall:
    """A call to the line whose greeting is over."""
    call = await caller.call(pbx.uri("1001"))
    greeting = await call.wait_reply(after=call.ack_at, silence=0.5, timeout=20)
    assert words(GREETING) <= words(transcribed(greeting.pcm))
    return call


def read_the_history(page: Browser) -> None:
    page.go("History")
    page.click("ul.calls a", "Ada")
    lines = dialogue(page)
    assert [who for who, _ in lines[:3]] == ["assistant", "caller", "assistant"], lines
    assert words(GREETING) <= words(lines[0][1])
    assert {"capital", "france"} <= words(lines[1][1])
    assert len(words(lines[2][1])) > 2
    assert page.all(".dialogue .stacked"), "an answer shows where its time went"
    assert "line front-desk" in page.text()


def talk_now(page: Browser, server: Server) -> None:
    """From the browser, recorded: the question is heard, the answer shown, and both are in the recording."""
    page.go("Settings")
    page.until(lambda: page.all("label", "Record calls"), "the setting")
    if not page.field("Record calls").is_selected():
        page.field("Record calls").click()
    page.click("main form button", "Save")
    page.wait("#toasts", "Saved")

    page.go("Talk now")
    page.click("#talk-button", "Start talking")
    page.until(lambda: {"capital", "france"} <= words(page.text(".words .said.caller")), "the question")
    page.until(lambda: "Answer 1" in page.text(".delays"), "where the delay went")
    page.until(lambda: "It listens" in page.text(".talk .lead"), "the end of the answer")
    shown = [line.text for line in page.all(".words .said.assistant")]
    assert len(shown) >= 2, shown
    page.click("#talk-button", "Hang up")
    page.click("main a", "See it in the history")

    page.click("ul.calls a", "from the browser")
    lines = dialogue(page)
    assert [who for who, _ in lines[:3]] == ["assistant", "caller", "assistant"], lines
    assert {"capital", "france"} <= words(lines[1][1])
    answer = words(lines[2][1])
    assert len(answer & words(" ".join(shown))) >= len(answer) / 2
    assert re.search(r"sip:browser-[a-z0-9]{8,32}@127\.0\.0\.1", page.text(".facts")), "which browser it was"
    page.wait("audio")
    address = page.driver.find_element(By.TAG_NAME, "audio").get_attribute("src") or ""
    server.wait_idle()
    left, right = recording(address)
    assert {"capital", "france"} <= words(transcribed(left))
    heard = words(transcribed(right))
    assert words(GREETING) <= heard
    assert len(heard & answer) >= len(answer) / 2, (heard, answer)


def write_microphone(path: Path, pcm: np.ndarray) -> None:
    quiet = np.zeros(int(QUIET_BEFORE * RATE), np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(np.concatenate([quiet, pcm, np.zeros(RATE, np.int16)]).astype("<i2").tobytes())


def recording(address: str) -> tuple[np.ndarray, np.ndarray]:
    """The caller's and the assistant's side of a recording, int16 at 8 kHz."""
    with urllib.request.urlopen(address, timeout=20) as answer, wave.open(io.BytesIO(answer.read())) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return both[:, 0].copy(), both[:, 1].copy()
