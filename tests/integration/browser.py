"""Headless Chromium for tests of the page: clicks what a person would click, and waits for what they would see.

    with Browser(chromium, chromedriver, folder) as page:
        page.open(f"http://localhost:{port}/")
        page.click("button", "Add New SIP Client")

``microphone`` is a WAV file that the browser takes for its microphone, played once from when a page asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 30.0
"""Seconds that a busy machine gets."""
POLL = 0.05

T = TypeVar("T")
Needs = Callable[[str, str], str]
"""Of the fixture ``needs``: package and command -> path of the command."""

FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1200,900",
)


class Browser:
    """The browser. Use it in a ``with`` block; one thread at a time."""

    def __init__(self, chromium: str, chromedriver: str, folder: Path, *, microphone: Path | None = None) -> None:
        """``folder`` is for its profile and its log."""
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        if microphone is not None:
            options.add_argument("--use-fake-ui-for-media-stream")
            options.add_argument("--use-fake-device-for-media-stream")
            options.add_argument(f"--use-file-for-fake-audio-capture={microphone}%noloop")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._options = options
        self._service = Service(chromedriver, log_output=str(folder / "chromedriver.log"))

    def __enter__(self) -> Browser:
        self.driver = Chrome(options=self._options, service=self._service)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.quit()

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    # ------------------------------------------------------------------ what is seen

    def all(self, css: str, text: str = "") -> list[WebElement]:
        """The visible elements of a selector whose text has ``text`` in it."""
        return [
            element
            for element in self.driver.find_elements(By.CSS_SELECTOR, css)
            if element.is_displayed() and text in element.text
        ]

    def text(self, css: str = "main") -> str:
        """All visible text within a selector."""
        return "\n".join(element.text for element in self.all(css))

    def until(self, wanted: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
        """The first true answer of ``wanted``; it may look at elements that the page replaces meanwhile."""
        waiting = WebDriverWait(
            self.driver, timeout, POLL, ignored_exceptions=(StaleElementReferenceException, AssertionError)
        )
        try:
            return waiting.until(lambda _: wanted())
        except TimeoutException:
            raise AssertionError(f"not seen within {timeout:g} s: {what}; the page says:\n{self.text()}") from None

    def wait(self, css: str, text: str = "", timeout: float = PATIENCE) -> WebElement:
        """The first visible element of a selector with ``text`` in it, waited for."""
        return self.until(lambda: self.all(css, text), f"{css} with {text!r}", timeout)[0]

    def errors(self) -> list[str]:
        """What went wrong in the page's scripts since the last look: the console's errors."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    # ------------------------------------------------------------------ what is done

    def click(self, css: str, text: str = "") -> None:
        """Click the one element of a selector with ``text`` in it, waited for."""

        def done() -> bool:
            (element,) = self.all(css, text)[:1] or [None]
            if element is None or not element.is_enabled():
                return False
            element.click()
            return True

        self.until(done, f"{css} with {text!r} to click")

    def go(self, name: str) -> None:
        """Open a page by the navigation."""
        self.click("#nav a", name)
        self.wait("main h1", "")

    def field(self, label: str) -> WebElement:
        """The input that a visible label names."""
        caption = next(one for one in self.all("label") if one.text == label)
        return self.driver.find_element(By.ID, caption.get_attribute("for") or "")

    def fill(self, label: str, text: str) -> None:
        """Put a text into the field of a label, in place of what is there."""
        element = self.field(label)
        element.clear()
        element.send_keys(text)
