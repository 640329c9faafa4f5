"""Pictures of the pages, from the stand-in: ``python tests/integration/page_screenshots.py [PAGE ...]``.

They go to ``docs/screenshots``: each page in both themes, wide and as wide as a telephone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import page_stand_in as stand_in
from browser import Browser

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
PAGES = {
    "clients": "clients",
    "add": "clients",
    "live": "live",
    "call-out": "live",
    "history": "history",
    "call": "call/39",
    "dashboard": "dashboard",
    "talk": "talk",
    "personas": "personas/default",
    "settings": "settings",
    "guide": "guide",
}
DIALOGS = {"add": "Add New SIP Client", "call-out": "Place a call"}


def main() -> int:
    """Take the pages that were named, or all."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        print("chromium and chromium-driver are needed", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in.running(stand_in.filled()) as server,
        Browser(chromium, driver, Path(folder)) as page,
    ):
        for name in sys.argv[1:] or PAGES:
            for width, phone in ((1200, False), (390, True)):
                for dark in (False, True):
                    take(page, server, name, width, phone=phone, dark=dark)
    return 0


def take(page: Browser, server: stand_in.StandIn, name: str, width: int, *, phone: bool, dark: bool) -> None:
    """One picture."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": phone}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    page.open("about:blank")
    page.open(f"{server.url}#/{PAGES[name]}")
    page.wait("main h1")
    page.wait("#readiness", "Ready for calls")
    if name in ("live", "call-out"):
        words = stand_in.DIALOGUE[:4]
        for index, (role, text) in enumerate(words):
            server.tell("words", call_id="c0", call=None, role=role, text=text, at=float(index), interrupted=False)
        page.wait(".live-call .said", words[-1][1])
    if name == "personas":
        page.wait("main form")
        page.driver.execute_script("document.querySelector('main details').open = true")
    if name in DIALOGS:
        page.click("button", DIALOGS[name])
        page.wait("dialog h2")
    end = "-phone-dark" if phone and dark else "-phone" if phone else "-dark" if dark else "-light"
    page.driver.save_screenshot(str(FOLDER / f"{name}{end}.png"))


if __name__ == "__main__":
    sys.exit(main())
