"""Converts rows to Arrow tables, and tables of older schemas to the current one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench.results.columns import BY_NAME, COLUMNS, DEFAULTS, SCHEMA_VERSION, Column
from raybench.results.constants import constant
from raybench.results.seal import VERSION_KEY

_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def arrow_type(column: Column) -> pa.DataType:
    """Arrow type of a column.

    Args:
        column: a column of the schema, or a field of a nested one.

    Returns:
        Its type; a struct, or a list of structs, for a column with fields.

    Example:
        >>> arrow_type(BY_NAME["speedup"])
        DataType(double)
    """
    if column.fields:
        struct = pa.struct([(f.name, arrow_type(f)) for f in column.fields])
        return pa.list_(struct) if column.type == "list" else struct
    return _TYPES[column.type]


@cache
def arrow_schema() -> pa.Schema:
    """Schema of every file that raybench writes, with its version in the metadata.

    Returns:
        All columns, in the order of `columns.py`.

    Example:
        >>> arrow_schema().names[:3]
        ['trial_id', 'config_id', 'status']
    """
    return pa.schema([(c.name, arrow_type(c)) for c in COLUMNS], metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table in schema order.

    Args:
        rows: records, or dicts with some of the columns; those left out are null.

    Returns:
        A table with every column.

    Example:
        >>> to_table([{"trial_id": "0123456789abcdef", "speedup": 2.0}]).select(["trial_id", "speedup"]).to_pylist()
        [{'trial_id': '0123456789abcdef', 'speedup': 2.0}]
    """
    return pa.Table.from_pylist([_plain(row) for row in rows], schema=arrow_schema())


def conform(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """`table` with exactly the columns `names`, in that order, cast to the schema's types.

    Args:
        table: a table as an older raybench may have written it.
        names: columns of the schema. A dotted name is a field of a struct column: ``provenance.torch``.

    Returns:
        The table; columns that it lacked are null, or what older rows are read as.

    Example:
        >>> conform(pa.table({"n": [1], "seed": [0]}), ["seed", "ratio"]).to_pylist()
        [{'seed': 0, 'ratio': None}]
    """
    wanted = _projected(tuple(names))
    if table.schema.equals(wanted):
        return table
    return pa.table([_column(table, name) for name in names], schema=wanted)


def empty(names: Sequence[str]) -> pa.Table:
    """A table without rows.

    Args:
        names: columns of the schema.

    Returns:
        A table with those columns.

    Example:
        >>> empty(["seed"]).num_rows
        0
    """
    schema = _projected(tuple(names))
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)  # no pandas is imported


@cache
def _projected(names: tuple[str, ...]) -> pa.Schema:
    return pa.schema([(name, field_type(name)) for name in names])


def field_type(name: str) -> pa.DataType:
    """Type of a column, or of a field of a struct column.

    Args:
        name: a column, or a column and a field with a dot between them.

    Returns:
        Its Arrow type.

    Example:
        >>> field_type("provenance.cores")
        DataType(int64)
    """
    column, _, inner = name.partition(".")
    kind = arrow_type(BY_NAME[column])
    return kind.field(inner).type if inner else kind


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column, _, inner = name.partition(".")
    kind = field_type(name)
    if column not in table.column_names:
        return _default(pa.chunked_array([pa.nulls(table.num_rows, kind)]), column)
    values = table.column(column)
    if inner:
        if values.type.get_field_index(inner) < 0:
            return pa.chunked_array([pa.nulls(table.num_rows, kind)])
        values = pc.struct_field(values, inner)
    return _default(values if values.type == kind else values.cast(kind), name)


def _default(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """`values` of a column with its default for rows from before there was the column."""
    if name not in DEFAULTS or not values.null_count:
        return values
    return pc.fill_null(values, constant(DEFAULTS[name]))


def _plain(value: Any) -> Any:
    """Nested read-only mappings and tuples as the dicts and lists that Arrow accepts."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value
