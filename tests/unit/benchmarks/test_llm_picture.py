"""The picture of the language model's curves."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import llm_curves
from benchmarks.llm_picture import WIDTH, svg, table, ticks

CURVES = {
    "ours": {"tokens_s": [36.0, 75.5], "first_p95_s": [0.1, 0.35], "gap_p95_s": [0.01, 0.02]},
    "locked": {"tokens_s": [36.0, 40.0], "first_p95_s": [0.1, 2.0], "gap_p95_s": [0.01, 0.5]},
}
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("most", [0.013, 0.1, 1.0, 7.7, 75.5, 100.0, 3000.0])
def test_an_axis_has_a_few_round_steps_up_to_the_most(most: float) -> None:
    marks = ticks(most)
    assert marks[0] == 0
    assert marks[-1] >= most * (1 - 1e-9)
    assert 3 <= len(marks) <= 6
    assert all(len(f"{mark:g}") <= 5 for mark in marks)


def test_the_picture_is_whole_and_can_be_read_on_a_telephone() -> None:
    page = ElementTree.fromstring(svg(CURVES, (1, 8), "a model; a machine"))
    assert page.get("role") == "img"
    assert page.findtext(f"{SPACE}title")
    left, top, wide, tall = (float(part) for part in page.attrib["viewBox"].split())
    assert (left, top, wide) == (0, 0, WIDTH)
    assert wide <= 480
    lines = page.findall(f"{SPACE}polyline")
    assert len(lines) == 6
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) == 2
        assert all(0 <= x <= wide and 0 <= y <= tall for x, y in points)
    assert all(0 < float(text.attrib["y"]) <= tall for text in page.findall(f"{SPACE}text"))
    assert "background" not in page.get("style", "")
    assert not page.findall(f"{SPACE}rect")


def test_the_table_has_the_ratios() -> None:
    last = table(CURVES, (1, 8)).splitlines()[-1].split()
    assert last == ["8", "75.5", "40", "1.89x", "0.35", "2", "0.17x", "0.02", "0.5", "0.04x"]


def test_what_was_measured_can_be_drawn_again(tmp_path: Path) -> None:
    known, drawn = tmp_path / "curves.json", tmp_path / "llm.svg"
    known.write_text(json.dumps({"what": "a model", "machine": "a machine", "calls": [1, 8], **CURVES}))
    assert llm_curves.main(["--from", str(known), "--svg", str(drawn)]) == 0
    assert drawn.read_text() == svg(CURVES, (1, 8), "a model; a machine")
