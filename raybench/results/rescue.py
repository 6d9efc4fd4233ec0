"""Reads what can still be trusted of a damaged result file: the rows whose own checksum is right."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.results.arrow import conform, empty
from raybench.results.columns import COLUMNS
from raybench.results.plausible import implausible_rows
from raybench.results.rows import wrong_rows
from raybench.results.seal import SEALED_SINCE, VERSION_KEY

_COLUMNS = tuple(column.name for column in COLUMNS)
_BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


def whole_rows(data: bytes) -> pa.Table:
    """Read the rows of a damaged file that are as they were written.

    Row groups are read one by one, so that one that can't be decoded costs no other. A row counts if its columns are
    plausible and those that its checksum was made of, whatever the checksum of its page; a row of raybench 0.1, which
    has none, if the pages of its row group have the right ones.

    Args:
        data: the file's content.

    Returns:
        A table with every column; without rows where the file doesn't say any more where its columns are.

    Example:
        >>> from raybench.results.encoding import encode
        >>> import raybench
        >>> from raybench.results.schema import Record, row_sha256
        >>> row = dict(Record.skipped(raybench.plan_sweep(raybench.load_sweep("quickstart")).trials[0], "no norms"))
        >>> whole_rows(encode([row | {"row_sha256": row_sha256(row)}, row | {"row_sha256": "0" * 64}])).num_rows
        1
    """
    tables = [table for table in _row_groups(data) if table.num_rows]
    return pa.concat_tables(tables) if tables else empty(_COLUMNS)


def row_count(data: bytes) -> int | None:
    """How many rows a damaged file had.

    Args:
        data: the file's content.

    Returns:
        The number; None where the file doesn't say it any more.

    Example:
        >>> row_count(b"PAR1") is None
        True
    """
    try:
        return int(pq.ParquetFile(io.BytesIO(data)).metadata.num_rows)
    except _BROKEN:
        return None


def _row_groups(data: bytes) -> Iterator[pa.Table]:
    try:
        metadata = pq.ParquetFile(io.BytesIO(data)).metadata
        groups, schema = metadata.num_row_groups, int(metadata.metadata[VERSION_KEY])
    except (*_BROKEN, TypeError):
        return
    for group in range(groups):
        table = _read(data, group, checked=True)
        checked = table is not None
        if table is None:
            table = _read(data, group, checked=False)
        if table is None:
            continue
        wrong = set(wrong_rows(table)) if schema >= SEALED_SINCE else set()
        wrong.update(implausible_rows(table))
        unknown = [] if checked else [i for i, sha in enumerate(table["row_sha256"].to_pylist()) if sha is None]
        left = [i for i in range(table.num_rows) if i not in wrong.union(unknown)]
        yield table.take(pa.array(left, pa.int64()))


def _read(data: bytes, group: int, *, checked: bool) -> pa.Table | None:
    """One row group with every column; None if it can't be decoded, or with `checked` if a page's checksum is wrong."""
    try:
        parquet = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=checked)
        present = set(parquet.schema_arrow.names)
        table = conform(parquet.read_row_group(group, [name for name in _COLUMNS if name in present]), _COLUMNS)
        table.validate(full=True)  # e.g. text that is no UTF-8
        return table
    except _BROKEN:
        return None
