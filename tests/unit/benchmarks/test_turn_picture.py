"""The picture is SVG, holds the figures, and stands missing ones."""

from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.turn_picture import Column, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_well_formed_and_has_the_figures() -> None:
    columns = [
        Column("1 call", 430, 700, 900, 2.8, 0.0),
        Column("12 calls", None, None, None, None, None),
        Column("Pipecat <1>", 1300, 1900, None, 0.0, 4.2, peer=True),
    ]
    lines = {"fixed timer": [(300.0, 40.0), (900.0, 5.0)], "ours": [(400.0, 2.0)]}
    root = ElementTree.fromstring(draw(columns, lines, (400.0, 2.0), "2 cores"))
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert {"1 call", "Pipecat <1>", "2.8 %", "4.2 %", "430", "ours", "2 cores"} <= set(words)
    # One bar for each figure there is, and the paper.
    assert len(list(root.iter(f"{SVG}rect"))) == 6


def test_a_picture_of_nothing_is_a_picture() -> None:
    assert ElementTree.fromstring(draw([], {}, None, "")).tag == f"{SVG}svg"
