"""A small model, cut where a voice is cut, and run by onnxruntime whole and in parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.errors import ModelError
from aiphone.inference.onnx_split import entrances, part, read_graph
from aiphone.inference.piper_voice import piece_plan

FLOAT = 1


def field(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def long_field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload) & 0x7F | 0x80, len(payload) >> 7]) + payload


def node(op: str, name: str, inputs: Sequence[str], output: str) -> bytes:
    body = b"".join(field(1, item.encode()) for item in inputs) + field(2, output.encode())
    return field(1, body + field(3, name.encode()) + field(4, op.encode()))


def value(number: int, name: str) -> bytes:
    shape = field(2, field(1, field(2, b"n")))
    return field(number, field(1, name.encode()) + field(2, field(1, bytes([8, FLOAT]) + shape)))


def weight(name: str, number: float) -> bytes:
    data = np.array([number], "<f4").tobytes()
    return field(5, bytes([8, 1, 16, FLOAT]) + field(9, data) + field(8, name.encode()))


@pytest.fixture(scope="module")
def model() -> bytes:
    graph = b"".join(
        [
            node("Mul", "/text/scale", ["x", "two"], "prior"),
            node("Mul", "", ["two", "three"], "constant"),  # from weights alone
            node("Add", "/flow/shift", ["prior", "constant"], "inner"),
            node("Mul", "fused", ["inner", "mask"], "latent"),  # belongs to the flow without saying so
            node("Add", "/dec/last", ["latent", "three"], "y"),
            field(2, b"whole"),
            weight("two", 2.0),
            weight("three", 3.0),
            value(11, "x"),
            value(11, "mask"),
            value(12, "y"),
        ]
    )
    return bytes([8, 8]) + long_field(7, graph) + field(8, bytes([16, 15]))


def run(model: bytes, outputs: Sequence[str], **feed: Sequence[float]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {name: np.array(item, np.float32) for name, item in feed.items()})


def test_entrances_are_what_moves_into_a_block(model: bytes) -> None:
    graph = read_graph(model)
    assert entrances(graph, "/flow/") == ["prior"]
    assert entrances(graph, "/dec/") == ["latent"]
    assert entrances(graph, "/other/") == []


def test_parts_give_what_the_whole_gives(model: bytes) -> None:
    graph = read_graph(model)
    x, mask = [1.0, 2.0], [1.0, 0.0]
    (whole,) = run(model, ["y"], x=x, mask=mask)
    (prior,) = run(part(graph, ["x"], ["prior"]), ["prior"], x=x)
    # The second part needs an input of the whole model, and declares it.
    (latent,) = run(part(graph, ["prior"], ["latent"]), ["latent"], prior=prior, mask=mask)
    (y,) = run(part(graph, ["latent"], ["y"]), ["y"], latent=latent)
    np.testing.assert_array_equal(y, whole)
    np.testing.assert_array_equal(whole, [11.0, 3.0])


def test_weights_go_only_where_they_are_used(model: bytes) -> None:
    graph = read_graph(model)
    assert list(read_graph(part(graph, ["latent"], ["y"])).weights) == ["three"]


def test_a_tensor_that_does_not_exist(model: bytes) -> None:
    with pytest.raises(ModelError, match="'nothing'"):
        part(read_graph(model), ["nothing"], ["y"])


def test_every_cut_file_is_refused(model: bytes) -> None:
    for length in range(len(model)):
        try:
            graph = read_graph(model[:length])
        except ModelError:
            continue
        # Cut behind the graph: only the operator set is missing.
        assert len(graph.nodes) == 5


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        read_graph(data)
    except ModelError as error:
        assert "download" in str(error)  # noqa: PT017 - either outcome is right


@given(st.integers(1, 20_000))
def test_pieces_cover_a_sentence_once_and_start_small(frames: int) -> None:
    plan = piece_plan(frames)
    assert [first for first, _ in plan] == [0, *(end for _, end in plan[:-1])]
    assert plan[-1][1] == frames
    assert plan[0][1] <= 48
    assert all(0 < end - first < 768 for first, end in plan)
