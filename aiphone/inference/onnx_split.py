"""Cutting an ONNX model at named tensors, so that its parts can be run apart.

A Piper voice is one graph: a text encoder with the durations, a flow over latent frames, a decoder that turns
frames into samples. onnxruntime runs a graph whole; to compute the last two piece by piece, each must be a
model of its own.

ONNX files are protocol buffers (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Cutting needs only
the names on the nodes' edges, so this module walks the wire format and copies whole fields as bytes: no weight
is decoded, and there is no need for the ``onnx`` package at run time. Field numbers below are those of
onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from aiphone.errors import ModelError

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP = 1, 2, 3, 4
_TENSOR_NAME = 8
_VALUE_NAME = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, memoryview]
"""Field number, wire type, payload (without its length)."""


@dataclass(frozen=True, slots=True)
class Node:
    """The edges of one operator, and its bytes as they stand in the file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    wire: memoryview


@dataclass(frozen=True, slots=True)
class Graph:
    """What is needed of a model to cut it."""

    header: tuple[Field, ...]
    """The model's fields other than the graph (IR version, opsets, producer)."""
    nodes: tuple[Node, ...]
    """In topological order, as ONNX demands."""
    weights: dict[str, memoryview]
    """Initializers by name."""
    inputs: dict[str, memoryview]
    outputs: dict[str, memoryview]


def read_graph(model: bytes) -> Graph:
    """Find nodes, weights, inputs and outputs of an ONNX file held in ``model``.

    Raises ModelError when the bytes are no ONNX model. The result refers to ``model`` without copying it.
    """
    try:
        header: list[Field] = []
        graph: memoryview | None = None
        for item in _fields(memoryview(model)):
            if item[0] == _MODEL_GRAPH:
                graph = item[2]
            else:
                header.append(item)
        if graph is None:
            raise ModelError("this file holds no ONNX graph; download the voice again")
        nodes: list[Node] = []
        weights: dict[str, memoryview] = {}
        inputs: dict[str, memoryview] = {}
        outputs: dict[str, memoryview] = {}
        for number, _, payload in _fields(graph):
            if number == _GRAPH_NODE:
                nodes.append(_read_node(payload))
            elif number == _GRAPH_INITIALIZER:
                weights[_string(payload, _TENSOR_NAME)] = payload
            elif number == _GRAPH_INPUT:
                inputs[_string(payload, _VALUE_NAME)] = payload
            elif number == _GRAPH_OUTPUT:
                outputs[_string(payload, _VALUE_NAME)] = payload
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError("this file is no ONNX model, or it is cut off; download the voice again") from error
    return Graph(tuple(header), tuple(nodes), weights, inputs, outputs)


def entrances(graph: Graph, prefix: str) -> list[str]:
    """The tensors that flow into the block whose nodes are named ``prefix...``, in the order of their use.

    Only those that depend on the model's inputs: what is computed from weights alone is no entrance, it goes
    with the part that uses it. Exporters leave fused nodes without the prefix, so whatever follows from the
    block counts as inside. Empty when no node has such a name.
    """
    moving = set(graph.inputs)
    inside: set[str] = set()
    found: dict[str, None] = {}
    for node in graph.nodes:
        if not moving.intersection(node.inputs):
            continue
        moving.update(node.outputs)
        named = node.name.startswith(prefix)
        if named:
            found.update((name, None) for name in node.inputs if name in moving and name not in inside)
        if named or inside.intersection(node.inputs):
            inside.update(node.outputs)
    return list(found)


def part(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The model that computes ``outputs`` from ``inputs``; tensors that were inner ones are taken as float32.

    What ``outputs`` need and ``inputs`` do not give is computed from the whole model's own inputs, which the
    part declares then. Raises ModelError when a tensor does not exist.
    """
    known = {name for node in graph.nodes for name in node.outputs} | set(graph.inputs)
    missing = [name for name in (*inputs, *outputs) if name not in known]
    if missing:
        raise ModelError(f"the model has no tensor {missing[0]!r} to be cut at; use it whole")
    nodes = _needed(graph, outputs, inputs)
    used = {name for node in nodes for name in node.inputs}
    whole = [name for name in graph.inputs if name in used and name not in inputs]
    return _write(
        graph,
        nodes,
        [graph.inputs.get(name) or _float_tensor(name) for name in (*inputs, *whole)],
        [graph.outputs.get(name) or _float_tensor(name) for name in outputs],
    )


def _needed(graph: Graph, wanted: Iterable[str], stop: Iterable[str]) -> list[Node]:
    """The nodes that ``wanted`` depends on, not looking behind the tensors in ``stop``."""
    ends = set(stop)
    names, nodes = set(wanted) - ends, []
    for node in reversed(graph.nodes):
        if names.intersection(node.outputs):
            nodes.append(node)
            names.update(name for name in node.inputs if name not in ends)
    nodes.reverse()
    return nodes


def _write(
    graph: Graph,
    nodes: list[Node],
    inputs: Sequence[bytes | memoryview],
    outputs: Sequence[bytes | memoryview],
) -> bytes:
    used = {name for node in nodes for name in node.inputs}
    parts: list[bytes | memoryview] = []
    for node in nodes:
        parts += _field(_GRAPH_NODE, node.wire)
    parts += _field(_GRAPH_NAME, b"part")
    for name, weight in graph.weights.items():
        if name in used:
            parts += _field(_GRAPH_INITIALIZER, weight)
    for value in inputs:
        parts += _field(_GRAPH_INPUT, value)
    for value in outputs:
        parts += _field(_GRAPH_OUTPUT, value)
    model: list[bytes | memoryview] = []
    for number, wire_type, payload in graph.header:
        model += _field(number, payload) if wire_type == _BYTES else [_varint(number << 3 | wire_type), payload]
    size = sum(len(part) for part in parts)
    return b"".join([*model, _varint(_MODEL_GRAPH << 3 | _BYTES), _varint(size), *parts])


def _float_tensor(name: str) -> bytes:
    """A ValueInfoProto: ``name`` is a tensor of float32, its shape left open."""
    tensor_type = b"".join(_field(1, b"\x08\x01"))  # TypeProto.tensor_type { elem_type: FLOAT }
    return b"".join([*_field(1, name.encode()), *_field(2, tensor_type)])


def _read_node(payload: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    name = op = ""
    for number, _, value in _fields(payload):
        if number == _NODE_INPUT:
            inputs.append(str(value, "utf-8"))
        elif number == _NODE_OUTPUT:
            outputs.append(str(value, "utf-8"))
        elif number == _NODE_NAME:
            name = str(value, "utf-8")
        elif number == _NODE_OP:
            op = str(value, "utf-8")
    return Node(name, op, tuple(inputs), tuple(outputs), payload)


def _string(payload: memoryview, wanted: int) -> str:
    for number, wire_type, value in _fields(payload):
        if number == wanted and wire_type == _BYTES:
            return str(value, "utf-8")
    return ""


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of one message. IndexError when the data ends in the middle of one."""
    at, end = 0, len(data)
    while at < end:
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _BYTES:
            size, at = _read_varint(data, at)
        elif wire_type == _VARINT:
            size = _read_varint(data, at)[1] - at
        elif wire_type == _FIXED64:
            size = 8
        elif wire_type == _FIXED32:
            size = 4
        else:
            raise IndexError(f"wire type {wire_type}")
        if number == 0 or at + size > end:
            raise IndexError(number)
        yield number, wire_type, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("varint")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes | memoryview) -> list[bytes | memoryview]:
    return [_varint(number << 3 | _BYTES), _varint(len(payload)), payload]
