"""Python values as Arrow values, made from bytes: pyarrow's own conversions import pandas."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import pyarrow as pa

Value = bool | int | float | str


def constant(value: Value) -> pa.Scalar:
    """A value of Python as one of Arrow, for a comparison.

    Args:
        value: what to convert.

    Returns:
        The scalar.

    Example:
        >>> constant("ok"), constant(2.0).as_py()
        (<pyarrow.StringScalar: 'ok'>, 2.0)
    """
    return array_of(type(value), [value])[0]


def array_of(kind: type[Value], found: Sequence[Value]) -> pa.Array:
    """Values of one type as an array of Arrow.

    Args:
        kind: their type.
        found: the values; none of them is None.

    Returns:
        The array.

    Example:
        >>> array_of(bool, [True, False]).to_pylist(), array_of(str, ["a", "bc"]).to_pylist(), array_of(int, []).type
        ([True, False], ['a', 'bc'], DataType(int64))
    """
    if kind is bool:
        bits = sum(1 << place for place, value in enumerate(found) if value)
        return _array(pa.bool_(), len(found), bits.to_bytes(len(found) // 8 + 1, "little"))
    if kind is int:
        return _array(pa.int64(), len(found), array("q", map(int, found)).tobytes())
    if kind is float:
        return _array(pa.float64(), len(found), array("d", map(float, found)).tobytes())
    texts = [str(value).encode() for value in found]
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    return _array(pa.string(), len(found), array("i", ends).tobytes(), b"".join(texts))


def _array(kind: pa.DataType, count: int, *content: bytes) -> pa.Array:
    assert sys.byteorder == "little"  # Arrow's own, and that of every machine that torch runs on
    return pa.Array.from_buffers(kind, count, [None, *map(pa.py_buffer, content)])
