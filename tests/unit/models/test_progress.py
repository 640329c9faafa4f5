from __future__ import annotations

import io

import pytest

from aiphone.clock import ManualClock
from aiphone.models import progress as progress_module
from aiphone.models.progress import ProgressBar, clock_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_lines_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), ManualClock()
    bar = ProgressBar(stream, clock)
    bar.start("big.bin", 100_000_000)
    for second in range(1, 26):
        clock.advance(1.0)
        bar.update(second * 4_000_000)
    bar.finish()
    assert stream.getvalue().splitlines() == [
        "big.bin (100.0 MB)",
        "big.bin:  40%  40.0/100.0 MB  4.0 MB/s  ETA 0:15",
        "big.bin:  80%  80.0/100.0 MB  4.0 MB/s  ETA 0:05",
        "big.bin: done",
    ]


def test_a_bar_on_a_terminal() -> None:
    stream, clock = Terminal(), ManualClock()
    bar = ProgressBar(stream, clock)
    bar.start("big.bin", 10_000_000, 5_000_000)
    clock.advance(1.0)
    bar.update(7_500_000)
    clock.advance(0.01)
    bar.update(7_600_000)  # too soon to draw again
    clock.advance(1.0)
    bar.update(10_000_000)
    bar.finish()
    drawn = [line.rstrip() for line in stream.getvalue().split("\r")]
    assert drawn[1:4] == [
        "big.bin                [####.....]  50%  5.0/10.0 MB",
        "big.bin                [######...]  75%  7.5/10.0 MB  2.5 MB/s  ETA 0:01",
        "big.bin                [#########] 100%  10.0/10.0 MB  2.5 MB/s",
    ]
    assert all(len(line) <= 79 for line in drawn)
    assert stream.getvalue().endswith("\n")


def test_a_narrow_terminal_does_without_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    stream = Terminal()
    ProgressBar(stream, ManualClock()).start("big.bin", 10_000_000)
    assert stream.getvalue() == "\r" + "big.bin                  0%  0.0/10.0 MB".ljust(49)


def test_a_total_that_is_not_known() -> None:
    stream, clock = io.StringIO(), ManualClock()
    bar = ProgressBar(stream, clock)
    bar.start("x", 0)
    clock.advance(10.0)
    bar.update(20_000_000)
    bar.finish("failed")
    bar.say("and a word")
    assert stream.getvalue() == "x\nx: 20.0 MB  2.0 MB/s\nx: failed\nand a word\n"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    stream, clock = Terminal(), ManualClock()
    bar = ProgressBar(stream, clock)
    bar.start("x", 1_000_000_000)
    done = 0
    for rate in [1_000_000] * 30 + [50_000_000] * 15:
        clock.advance(1.0)
        done += rate
        bar.update(done)
    assert "50.0 MB/s" in stream.getvalue().split("\r")[-1]
    assert progress_module._WINDOW_S < 15


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (67, "1:07"), (3723, "1:02:03")])
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
