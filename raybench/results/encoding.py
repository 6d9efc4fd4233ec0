"""Encodes rows as Parquet or CSV bytes. The only module that writes Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raybench.errors import printable

if TYPE_CHECKING:  # importing Arrow takes a quarter of a second
    import pyarrow as pa

Row = Mapping[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells start that a spreadsheet runs
ROW_GROUP = 1024  # rows: `show` decodes one group, and damage that can't be decoded costs no more than one


def encode(rows: Iterable[Row] | pa.Table) -> bytes:
    """Rows as the bytes of one Parquet file. Its pages and the whole have checksums.

    Args:
        rows: records, dicts with some of the columns, or a table with every column.

    Returns:
        The file's content. It says so if every row is plausible and has its own checksum; readers check the rows of
        one that doesn't.

    Example:
        >>> encode([{"trial_id": "0123456789abcdef"}])[:4]
        b'PAR1'
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raybench.results.arrow import arrow_schema, to_table
    from raybench.results.plausible import implausible_rows
    from raybench.results.rows import wrong_rows
    from raybench.results.seal import BLANK, ROWS_KEY, SEAL_KEY, rows_mark, sealed

    table = rows if isinstance(rows, pa.Table) else to_table(rows)
    small = table.num_rows == 1  # dictionaries and statistics would be most of the bytes of a one-row file
    schema = arrow_schema().remove_metadata()
    sink = io.BytesIO()
    options = {"use_dictionary": not small, "write_statistics": not small, "store_schema": False}
    options["write_page_checksum"] = True
    compression = "snappy" if small else "zstd"  # zstd sets up its tables for each column: half of the time
    with pq.ParquetWriter(sink, schema, compression=compression, **options) as writer:
        of = table.select(["trial_id", "status"]).to_pylist()[0] if small else {}
        checked = {} if wrong_rows(table) or implausible_rows(table) else {ROWS_KEY: rows_mark(**of)}
        writer.add_key_value_metadata({**arrow_schema().metadata, **checked, SEAL_KEY: BLANK})
        writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return sealed(sink.getvalue())


def parquet_bytes(table: pa.Table) -> bytes:
    """A table with any columns, e.g. a leaderboard's, as the bytes of a Parquet file.

    Args:
        table: the table.

    Returns:
        The file's content, without a raybench schema.

    Example:
        >>> import pyarrow as pa
        >>> parquet_bytes(pa.table({"method": ["random"]}))[:4]
        b'PAR1'
    """
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Rows with any columns as CSV in UTF-8.

    Args:
        rows: mappings with the same keys. Values that are sequences are joined by spaces; None is empty. A text that
            a spreadsheet would run as a formula gets an apostrophe in front; control characters are escapes.

    Returns:
        A header line and one line a row; an empty line without rows.

    Example:
        >>> print(csv_bytes([{"method": "random", "seeds": (0, 1), "ratio": None}]).decode())
        method,seeds,ratio
        random,0 1,
        <BLANKLINE>
    """
    text = io.StringIO(newline="")
    names = list(rows[0]) if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_csv_cell, names))
    for row in rows:
        writer.writerow([_csv_cell(row[name]) for name in names])
    return text.getvalue().encode()


def _csv_cell(value: Any) -> Any:
    """One value for a CSV file; text that starts like a formula is marked as text."""
    if isinstance(value, (tuple, list)):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return value
    text = printable(value)
    if not value.startswith(FORMULA):
        return text
    try:
        float(value)
    except ValueError:
        return f"'{text}"
    return text
