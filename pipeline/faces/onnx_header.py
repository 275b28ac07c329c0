"""Rewrites the head of an ONNX file so that it takes any batch and frame size, without the ``onnx`` package.

The CenterFace file declares a fixed input of 10x3x32x32 and lists every weight as an input, which keeps the runtime
from folding batch normalisation into the convolutions. Both stand in the file's outermost protobuf fields; the nodes
and weights are copied as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from infra.errors import WeightsError

# protobuf wire types, and the field numbers of onnx.proto that are touched
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MODEL_GRAPH = 7
GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 11, 12, 13
FLOAT = 1


def with_free_sizes(
    model: bytes, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
) -> bytes:
    """Return the model with exactly these float inputs and outputs; a size given as a name is free.

    Raises:
        WeightsError: the bytes are no ONNX model.
    """
    declared = b"".join(_field(GRAPH_INPUT, LENGTH, _value_info(name, sizes)) for name, sizes in inputs.items())
    declared += b"".join(_field(GRAPH_OUTPUT, LENGTH, _value_info(name, sizes)) for name, sizes in outputs.items())
    replaced = (GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO)
    try:
        fields = list(_fields(model))
        graph = next(bytes(value) for number, _, value in fields if number == MODEL_GRAPH and isinstance(value, bytes))
        kept = b"".join(_field(*entry) for entry in _fields(graph) if entry[0] not in replaced)
    except (IndexError, StopIteration) as error:
        raise WeightsError("the detector's file is no ONNX model; reinstall the package it comes from") from error
    others = b"".join(_field(*entry) for entry in fields if entry[0] != MODEL_GRAPH)
    return others + _field(MODEL_GRAPH, LENGTH, kept + declared)


def _value_info(name: str, sizes: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _field(1, LENGTH, _field(2, LENGTH, size.encode()) if isinstance(size, str) else _field(1, VARINT, size))
        for size in sizes
    )
    tensor_type = _field(1, VARINT, FLOAT) + _field(2, LENGTH, dims)
    return _field(1, LENGTH, name.encode()) + _field(2, LENGTH, _field(1, LENGTH, tensor_type))


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field number, wire type, value) of one protobuf message, one level deep."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _read_varint(message, at)
            yield number, wire, value
            continue
        if wire == LENGTH:
            length, at = _read_varint(message, at)
        else:
            length = {FIXED64: 8, FIXED32: 4}.get(wire, len(message) + 1)
        if at + length > len(message):
            raise IndexError("field reaches beyond the message")
        yield number, wire, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, wire: int, value: int | bytes) -> bytes:
    tag = _varint(number << 3 | wire)
    if isinstance(value, int):
        return tag + _varint(value)
    return tag + (_varint(len(value)) if wire == LENGTH else b"") + value
