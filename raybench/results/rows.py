"""Finds the rows of a table whose columns aren't those that their checksum was made of: they are never shown."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

_AT_ONCE = 1024  # rows as Python objects at a time
_NAMED = 5  # rows in a message


def wrong_rows(table: pa.Table) -> list[int]:
    """Find the rows with another checksum than their own.

    Args:
        table: rows with every column. A row of raybench 0.1 has no checksum, so that nothing can be said of it.

    Returns:
        Their positions in the table.

    Example:
        >>> from raybench.results.arrow import to_table
        >>> wrong_rows(to_table([{"trial_id": "0123456789abcdef", "speedup": 2.0, "row_sha256": "0" * 64}]))
        [0]
    """
    if "row_sha256" not in table.column_names or table["row_sha256"].null_count == table.num_rows:
        return []
    from raybench.results.schema import row_sha256  # pydantic: a leaderboard doesn't wait for it

    wrong: list[int] = []
    for start in range(0, table.num_rows, _AT_ONCE):
        rows = table.slice(start, _AT_ONCE).to_pylist()
        wrong += [start + i for i, row in enumerate(rows) if row["row_sha256"] not in (None, row_sha256(row))]
    return wrong


def named(table: pa.Table, wrong: Sequence[int]) -> str:
    """Name wrong rows in a message.

    Args:
        table: rows with their trial_id.
        wrong: positions of the wrong ones.

    Returns:
        The message.

    Example:
        >>> named(pa.table({"trial_id": ["0123456789abcdef"]}), [0])
        'the row of 0123456789abcdef has other columns than its checksum is of'
    """
    ids = [table["trial_id"][index].as_py() for index in wrong]
    if len(ids) == 1:
        return f"the row of {ids[0]} has other columns than its checksum is of"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"the rows of {', '.join(ids[:_NAMED])}{more} have other columns than their checksums are of"
