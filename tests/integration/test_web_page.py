"""The web page in a real browser, on a stand-in with canned data: what it shows, and that it shows it to everybody.

The page with the real server behind it is tested in ``test_promise.py``.
"""

from __future__ import annotations

import functools
import re
import time
import wave
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import page_stand_in as stand_in
import pytest
from browser import Browser, Needs
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from aiphone.server import shapes
from aiphone.server.assets import web_root
from aiphone.server.schema import Schema
from aiphone.server.talk import BROWSER

pytestmark = pytest.mark.integration

PAGES = (
    "clients",
    "live",
    "history",
    "call/39",
    "dashboard",
    "talk",
    "personas",
    "personas/default",
    "personas/+",
    "settings",
    "guide",
)
FIELDS = (
    "Client ID",
    "Username",
    "Password",
    "Server IP",
    "Server Port",
    "Display Name",
    "Auto Answer",
    "Greeting",
)
MOST_BYTES = 150_000
TONE = 440.0


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone hears: a tone."""
    path = tmp_path_factory.mktemp("microphone") / "tone.wav"
    pcm = (8000 * np.sin(2 * np.pi * TONE * np.arange(48000 * 20) / 48000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes(pcm.tobytes())
    return path


@pytest.fixture(scope="module")
def page(needs: Needs, microphone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests: starting it takes longer than most of them."""
    folder = tmp_path_factory.mktemp("browser")
    chromium, driver = needs("chromium", "chromium"), needs("chromium-driver", "chromedriver")
    with Browser(chromium, driver, folder, microphone=microphone) as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[stand_in.StandIn]:
    """A world of its own for each test."""
    with stand_in.running(stand_in.filled()) as running:
        yield running


@pytest.fixture(autouse=True)
def no_script_errors(page: Browser) -> Iterator[None]:
    """Nothing in the console, the Content-Security-Policy's complaints included."""
    page.errors()
    yield
    wrong = [text for text in page.errors() if "status of 4" not in text]
    page.open("about:blank")
    assert wrong == []


def show(page: Browser, server: stand_in.StandIn, name: str) -> None:
    """Open a page of the page, afresh."""
    page.open("about:blank")
    page.open(f"{server.url}#/{name}")
    page.wait(f'.page[data-page="{name.split("/")[0]}"] h1')


def as_seen(page: Browser, *, width: int, dark: bool) -> None:
    """A window's width in CSS pixels and the system's theme."""
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})


# ---------------------------------------------------------------------------------- the stand-in is like the API


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (shapes.SIP_CLIENT, stand_in.client("a", "A")),
        (shapes.CALL_DETAIL, stand_in.call(1, 0.0)),
        (shapes.TURN, stand_in.call(1, 0.0)["turns"][0]),
        (shapes.WORDS, stand_in.call(1, 0.0)["words"][0]),
        (shapes.LIVE_CALL, stand_in.filled().live[0]),
        (shapes.PERSONA, stand_in.personas()[0]),
        (shapes.MODEL, stand_in.models()[0]),
        (shapes.DASHBOARD, stand_in.dashboard(stand_in.filled(), 24)),
    ],
    ids=lambda value: value.name if isinstance(value, Schema) else "",
)
def test_canned_answers_have_the_members_of_real_ones(schema: Schema, body: dict[str, Any]) -> None:
    assert set(body) == {one.name for one in schema.fields if not one.write_only}


# ------------------------------------------------------------------------------------------------ SIP clients


def test_a_client_is_added_and_turns_green(page: Browser, server: stand_in.StandIn) -> None:
    server.world.clients.clear()
    show(page, server, "clients")
    page.wait("main", "No SIP client yet")
    page.wait("#readiness", "Ready for calls")
    link = page.wait("main a.uri", "sip:ai@127.0.0.1:5060")
    assert link.get_attribute("href") == "sip:ai@127.0.0.1:5060"

    page.click("button", "Add New SIP Client")
    page.wait("dialog h2", "Add New SIP Client")
    assert [one.text for one in page.all("dialog label")] == list(FIELDS)
    assert page.field("Server Port").get_attribute("value") == "5060"
    assert page.field("Auto Answer").is_selected()
    assert page.driver.switch_to.active_element == page.field("Client ID")

    # What is missing is said at the field, and the first one that is wrong has the focus.
    page.click("dialog button", "Add SIP Client")
    page.wait("dialog .error", "The extension or account name is needed here.")
    assert page.driver.switch_to.active_element == page.field("Username")
    page.fill("Client ID", "not a name")
    page.fill("Username", "1001")
    page.fill("Password", "secret")
    page.fill("Server IP", "192.168.1.10")
    page.click("dialog button", "Add SIP Client")
    page.wait("dialog .error", "Expected: letters, digits")
    assert page.field("Client ID").get_attribute("aria-invalid") == "true"
    page.fill("Client ID", "reception")
    page.click("dialog button", "Add SIP Client")

    page.wait('ul.clients li[data-light="idle"]', "Stopped")
    page.click("ul.clients button", "Start")
    page.wait('ul.clients li[data-light="good"]', "Registered")
    server.registration("reception", "failed", "the server is not reachable")
    page.wait('ul.clients li[data-light="bad"]', "Not registered: the server is not reachable")
    page.click("ul.clients button", "Stop")
    page.wait('ul.clients li[data-light="idle"]', "Stopped")


def test_a_client_is_added_and_started_by_the_keyboard_alone(page: Browser, server: stand_in.StandIn) -> None:
    server.world.clients.clear()
    show(page, server, "clients")
    page.wait("main", "No SIP client yet")
    page.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def tab_to(name: str) -> None:
        """As often as somebody would bear to press it; whoever has the focus must be seen to have it."""
        for _ in range(40):
            focus = page.driver.switch_to.active_element
            if name in (focus.text, focus.accessible_name):
                assert page.driver.execute_script("return arguments[0].matches(':focus-visible')", focus)
                return
            press(Keys.TAB)
        raise AssertionError(f"the keyboard does not get to {name}")

    tab_to("Add New SIP Client")
    press(Keys.ENTER)
    page.wait("dialog h2", "Add New SIP Client")
    for label, text in (
        ("Client ID", "desk"),
        ("Username", "1001"),
        ("Password", "secret"),
        ("Server IP", "192.0.2.1"),
    ):
        tab_to(label)
        press(text)
    press(Keys.ENTER)
    page.wait('ul.clients li[data-light="idle"]', "Stopped")
    tab_to("Start")
    press(Keys.ENTER)
    page.wait('ul.clients li[data-light="good"]', "Registered")
    page.click("button", "Add New SIP Client")
    page.wait("dialog h2", "Add New SIP Client")
    press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"), "the dialog is closed")
    assert page.driver.switch_to.active_element.text == "Add New SIP Client"


# --------------------------------------------------------------------------------------------- hostile strings


def test_what_a_caller_says_is_text_everywhere(page: Browser, server: stand_in.StandIn) -> None:
    world, evil = server.world, stand_in.HOSTILE
    for one in world.clients:
        one |= {"display_name": evil, "reason": evil, "state": "failed"}
    for one in [*world.live, *world.calls]:
        one |= {"caller": evil, "caller_name": evil, "called": evil, "line_id": evil, "end_reason": evil}
    for line in world.calls[1]["words"]:
        line["text"] = evil
    world.calls[1]["media"]["codec"] = evil
    world.warnings[:] = [evil, evil]
    for name in ("clients", "live", "history", "call/39", "dashboard", "settings", "guide"):
        show(page, server, name)
        if name == "live":
            page.wait(".live-call")
            server.tell("words", call_id="c0", call=None, role="user", text=evil, at=1.0, interrupted=False)
            server.tell("hearing", call_id="c1", call=None, text=evil)
            page.until(lambda: len(page.all(".live-call .said", "<script>")) == 2, "hostile words as text")
        elif name in ("settings", "guide"):
            page.wait("main", "reception" if name == "settings" else "It works")
        else:
            page.wait("main", "<script>document.title=2</script>")
        assert page.driver.execute_script("return document.querySelectorAll('main img, main script').length") == 0
        assert page.driver.title not in ("1", "2")
        if name == "dashboard":
            assert len(page.all(".warnings li")) == 1


# ---------------------------------------------------------------------------------------------- calls


def test_live_calls_come_talk_and_go(page: Browser, server: stand_in.StandIn) -> None:
    server.world.live.clear()
    show(page, server, "live")
    page.wait("main", "Nobody is on the phone")
    facts = {
        "line_id": "reception",
        "caller": "sip:5@x",
        "caller_name": "Eva",
        "called": "sip:1001@x",
        "direction": "in",
    }
    about = {"call_id": "c9", "call": None}
    server.tell("ringing", **about, **facts, at=time.time())
    page.wait(".live-call", "ringing")
    server.tell("answered", **about, **facts, at=time.time())
    server.tell("state", **about, state="hearing")
    server.tell("hearing", **about, text="what is the")
    page.wait(".said.partial", "what is the")
    server.tell("words", **about, role="user", text="What is the time?", at=1.0, interrupted=False)
    server.tell("turn", **about, total=0.734, parts=stand_in.parts_of(1))
    server.tell("levels", calls=[{"call_id": "c9", "in": -12.0, "out": -60.0}])
    page.wait(".live-call .said", "What is the time?")
    page.wait(".live-call", "last answer after 734 ms")
    assert not page.all(".said.partial")
    level = "return document.querySelector('.meter span').style.transform"
    page.until(lambda: page.driver.execute_script(level) == "scaleX(0.8)", "the caller's level")
    page.click(".live-call button", "Hang up")
    page.wait("main", "Nobody is on the phone")


def test_fifty_calls_stay_smooth_and_their_cards_stay(page: Browser) -> None:
    with stand_in.running(stand_in.filled(live=50), animated=True) as server:
        show(page, server, "live")
        page.until(lambda: len(page.all(".live-call h2")) == 50, "fifty cards")
        script = """
            const done = arguments[0], cards = [...document.querySelectorAll('.live-call')], long = [];
            new PerformanceObserver((list) => long.push(...list.getEntries())).observe({type: 'longtask'});
            const longest = () => Math.max(0, ...long.map((entry) => entry.duration));
            setTimeout(() => done([cards.every((card) => card.isConnected), longest()]), 1000);
        """
        page.driver.set_script_timeout(20)
        same, longest = page.driver.execute_async_script(script)
    assert same, "cards were made anew"
    assert longest < 400, f"a task of {longest:.0f} ms blocked the page"


def test_history_is_searched_and_a_call_is_read(page: Browser, server: stand_in.StandIn) -> None:
    server.world.calls[3]["words"][1]["text"] = "My parrot has the flu."
    show(page, server, "history")
    page.until(lambda: len(page.all("ul.calls li")) == 40, "all calls")
    page.fill("Search", "parrot")
    page.until(lambda: len(page.all("ul.calls li")) == 1, "the one call")
    page.click("ul.calls a")
    page.wait(".said.caller", "My parrot has the flu.")
    page.wait("main", "2.41 ms")
    bars = page.all(".stacked")
    assert len(bars) == 3
    assert "patience" in (bars[0].get_attribute("aria-label") or "")
    filled = "return [...arguments[0].children].reduce((sum, part) => sum + part.offsetWidth, 0)"
    assert page.driver.execute_script(filled, bars[0]) > 0.95 * bars[0].size["width"]
    # The transcript follows the recording.
    ready = "return document.querySelector('audio').readyState > 0"
    page.until(lambda: page.driver.execute_script(ready), "the recording")
    page.driver.execute_script("document.querySelector('audio').currentTime = 4.7")
    page.wait(".said.now", "My parrot has the flu.")


def test_dashboard_shows_load_limits_and_latency(page: Browser, server: stand_in.StandIn) -> None:
    show(page, server, "dashboard")
    page.wait(".tile", "3 of 8")
    text = page.text()
    for wanted in ("2.17, at most 1024 calls", "tiny.en (threads 2)", "660 ms", "Worth your attention"):
        assert wanted in text
    assert len(page.all("svg.chart")) == 2
    assert len(page.all("svg.chart path")) == 3, "p50, p95 and p99 over time"


def test_a_call_is_placed_from_a_registered_line(page: Browser, server: stand_in.StandIn) -> None:
    show(page, server, "live")
    page.click("#place-call", "Place a call")
    page.wait("dialog h2", "Place a call")
    assert [one.text for one in page.all("dialog option")] == ["Reception"], "only what is registered can call"
    page.click("dialog button", "Call")
    page.wait("dialog .error", "Whom to call is needed here.")
    page.fill("Number or address", "not an address")
    page.click("dialog button", "Call")
    page.wait("dialog .error", "Expected: a number")
    page.fill("Number or address", "+46 (0)70-123 45 67")
    page.click("dialog button", "Call")
    page.wait("#toasts", "Calling +460701234567.")
    assert server.world.placed == [{"uri": "+460701234567", "line_id": "reception", "message": ""}]
    server.world.clients[0]["state"] = "stopped"
    page.click("#place-call", "Place a call")
    page.wait("dialog", "No SIP client is registered.")
    page.click("dialog button", "Close")


def test_names_of_the_server_are_set(page: Browser, server: stand_in.StandIn) -> None:
    show(page, server, "settings")
    page.until(lambda: page.all("label", "Further names of this server"), "the setting")
    page.fill("Further names of this server", "phone.example.org\nno name!")
    page.click("main button", "Save the names")
    page.wait("main .error", "Expected: a list of host names")
    page.fill("Further names of this server", "phone.example.org, office.example.org")
    page.click("main button", "Save the names")
    page.wait("#toasts", "Saved.")
    assert server.world.settings["allowed_hosts"] == ["phone.example.org", "office.example.org"]
    page.wait("main", "A model that you choose is used after the next start of the server")


def test_every_field_of_a_persona_and_of_a_line_can_be_edited(page: Browser, server: stand_in.StandIn) -> None:
    names = "return [...document.querySelectorAll('form [name]')].map((one) => one.name)"
    show(page, server, "personas/default")
    page.wait("main form")
    wanted = {one.name for one in shapes.PERSONA.fields if not one.read_only}
    shown = [name for name in page.driver.execute_script(names) if name != "actions"]  # a box for each of them
    assert wanted - {"actions"} <= set(shown)
    assert len(shown) == len(set(shown)), "the last box of a name would win"
    assert not page.all("summary", "More"), "a field without a caption and a hint of its own"
    show(page, server, "clients")
    page.click("button", "Add New SIP Client")
    page.wait("dialog h2")
    wanted = {one.name for one in shapes.SIP_CLIENT.fields if not one.read_only} - {"enabled"}
    assert wanted <= set(page.driver.execute_script(names))
    options = "return [...document.querySelectorAll('dialog [name=transport] option')].map((one) => one.value)"
    assert page.driver.execute_script(options) == ["udp", "tcp", "tls"]
    page.driver.find_element("tag name", "body").send_keys(Keys.ESCAPE)


def test_talk_sends_the_microphone_and_plays_the_answer(page: Browser, server: stand_in.StandIn) -> None:
    show(page, server, "talk")
    page.click("#talk-button", "Start talking")
    page.wait(".said.assistant", "The capital of France is Paris.")
    page.wait(".delays .sum", "Answer 1")
    page.wait(".delays", "Browser")
    page.wait("main", "0 gaps")
    page.click("#talk-button", "Hang up")
    page.wait("main", "You hung up.")
    page.click("#talk-button", "Start talking")
    page.until(lambda: len(server.world.browsers) == 2, "a second call")
    page.click("#talk-button", "Hang up")
    first, second = server.world.browsers
    assert first == second, "a browser is the same caller each time"
    assert BROWSER.fullmatch(first)
    heard = np.frombuffer(bytes(server.world.heard), "<i2")
    assert len(heard) % 320 == 0
    # The browser's own processing fades in; afterwards it is the tone, at the right pitch.
    spectrum = np.abs(np.fft.rfft(heard[-8000:] * np.hanning(8000)))
    assert abs(2.0 * int(spectrum.argmax()) - TONE) < 6


def test_signing_in(page: Browser, server: stand_in.StandIn) -> None:
    server.world.password = "correct horse"
    page.open(server.url)
    page.wait("main h1", "Sign in")
    page.fill("Password", "wrong")
    page.click("main button", "Sign in")
    page.wait("main", "That is not the password.")
    page.fill("Password", "correct horse")
    page.click("main button", "Sign in")
    page.wait("ul.clients", "Reception")
    page.click("ul.clients button", "Start")
    page.until(lambda: ("POST", "sip-clients/night/start") in server.world.requests, "a request with its token")
    page.click("#log-out")
    page.wait("main h1", "Sign in")


# ---------------------------------------------------------------------------------- for everybody, and quickly


@functools.cache
def axe() -> str:
    """axe-core, as a package of the test extra brings it along."""
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


OWN_CHECKS = """
    const wrong = [];
    for (const one of document.querySelectorAll('input, select, textarea'))
        if (!one.labels?.length && !one.ariaLabel) wrong.push(`no label: ${one.name}`);
    for (const one of document.querySelectorAll('button, a[href]'))
        if (!(one.textContent.trim() || one.ariaLabel)) wrong.push(`no name: ${one.outerHTML.slice(0, 80)}`);
    if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
    return wrong;
"""
AXE = """
    const [only, done] = arguments;
    const runOnly = only.length ? {type: 'rule', values: only}
        : {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']};
    axe.run(document, {runOnly, resultTypes: ['violations']}).then((found) => done(
        found.violations.flatMap((one) => one.nodes.map(
            (node) => `${one.id}: ${node.html.slice(0, 120)} ${node.failureSummary}`))));
"""


def wrong_for_some(page: Browser, where: str) -> list[str]:
    """What keeps somebody from using what is shown: in the light theme all of it, in the dark one its colours."""
    wrong = list(page.driver.execute_script(OWN_CHECKS))
    if page.driver.execute_script("return document.documentElement.scrollWidth > innerWidth"):
        wrong.append("wider than the screen")
    page.driver.execute_script(axe())
    wrong += page.driver.execute_async_script(AXE, [])
    as_seen(page, width=390, dark=True)
    wrong += [f"dark: {text}" for text in page.driver.execute_async_script(AXE, ["color-contrast"])]
    as_seen(page, width=390, dark=False)
    return [f"{where}: {text}" for text in wrong]


def test_pages_are_accessible_and_fit_a_telephone(page: Browser, server: stand_in.StandIn) -> None:
    server.world.live = server.world.live[:1]
    as_seen(page, width=390, dark=False)
    dialogs = {"clients": "Add New SIP Client", "live": "Place a call"}
    wrong: list[str] = []
    try:
        for name in PAGES:
            show(page, server, name)
            page.until(lambda: page.driver.execute_script("return document.fonts.status") == "loaded", "fonts")
            for box in page.driver.find_elements("css selector", "details"):
                page.driver.execute_script("arguments[0].open = true", box)
            wrong += wrong_for_some(page, name)
            if name in dialogs:
                page.click("button", dialogs[name])
                page.wait("dialog h2")
                page.driver.execute_script(
                    "document.querySelectorAll('dialog details').forEach((one) => one.open = true)"
                )
                wrong += wrong_for_some(page, f"{name}: {dialogs[name]}")
        server.world.password = "correct horse"
        page.open("about:blank")
        page.open(server.url)
        page.wait("main h1", "Sign in")
        wrong += wrong_for_some(page, "login")
        assert wrong == []
    finally:
        as_seen(page, width=1200, dark=False)


def test_axe_finds_what_is_wrong(page: Browser, server: stand_in.StandIn) -> None:
    """The check itself: without it, the one above would pass on any page."""
    show(page, server, "guide")
    page.driver.execute_script(
        "const box = document.querySelector('main .page'), one = document.createElement('input');"
        "const pale = document.createElement('p'); pale.textContent = 'pale'; pale.style.color = '#999';"
        "pale.style.background = '#fff'; box.append(one, pale);"
    )
    page.driver.execute_script(axe())
    found = " ".join(page.driver.execute_async_script(AXE, []))
    assert "label:" in found
    assert "color-contrast:" in found


def test_the_theme_can_be_chosen_and_stays(page: Browser, server: stand_in.StandIn) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    show(page, server, "clients")
    light = page.driver.execute_script(background)
    page.click("#theme", "automatic")
    page.click("#theme", "light")
    page.wait("#theme", "dark")
    dark = page.driver.execute_script(background)
    assert dark != light
    show(page, server, "history")
    assert page.driver.execute_script(background) == dark
    page.click("#theme", "dark")
    assert page.driver.execute_script(background) == light


def test_the_page_is_small_and_quick_and_asks_nobody_else(page: Browser, server: stand_in.StandIn) -> None:
    files = [one for one in web_root().rglob("*") if one.suffix in (".html", ".css", ".js", ".svg")]
    assert sum(one.stat().st_size for one in files) < MOST_BYTES
    for one in files:
        text = one.read_text(encoding="utf-8")
        assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\()", text), one.name
        assert not re.search(r"(src|href)=\"(https?:)?//", text), one.name
    show(page, server, "clients")
    paints = []
    paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    for _ in range(3):
        page.driver.refresh()
        page.wait("ul.clients", "Reception")
        paints.append(page.until(lambda: page.driver.execute_script(paint), "a first paint"))
    assert min(paints) < 300
    hosts = "return [...new Set(performance.getEntriesByType('resource').map((one) => new URL(one.name).host))]"
    assert page.driver.execute_script(hosts) == [server.url.split("/")[2]]
