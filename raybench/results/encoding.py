"""Encodes rows as Parquet or CSV bytes. The only module that writes Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing Arrow takes a quarter of a second
    import pyarrow as pa

Row = Mapping[str, Any]
ROW_GROUP = 8192  # rows: `show` decodes one group, a ranking of 100,000 rows a dozen


def encode(rows: Iterable[Row] | pa.Table) -> bytes:
    """Rows, or a table with every column, as the bytes of one Parquet file. Its pages and the whole have checksums."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raybench.results.arrow import arrow_schema, to_table
    from raybench.results.seal import BLANK, SEAL_KEY, sealed

    table = rows if isinstance(rows, pa.Table) else to_table(rows)
    small = table.num_rows == 1  # dictionaries and statistics would be most of the bytes of a one-row file
    schema = arrow_schema().remove_metadata()
    sink = io.BytesIO()
    options = {"use_dictionary": not small, "write_statistics": not small, "store_schema": False}
    options["write_page_checksum"] = True
    with pq.ParquetWriter(sink, schema, compression="zstd", **options) as writer:
        writer.add_key_value_metadata({**arrow_schema().metadata, SEAL_KEY: BLANK})
        writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return sealed(sink.getvalue())


def parquet_bytes(table: pa.Table) -> bytes:
    """A table with any columns, e.g. a leaderboard's, as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Rows with any columns as CSV in UTF-8; sequences are joined by spaces, None is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in row.items()})
    return text.getvalue().encode()
