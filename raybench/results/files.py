"""Reads the Parquet files of a store: only the requested columns; unreadable files are noted and left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raybench.errors import UserError
from raybench.results.arrow import VERSION_KEY, conform, empty
from raybench.results.columns import SCHEMA_VERSION
from raybench.results.layout import ResultFile
from raybench.results.moved import Moved
from raybench.results.seal import broken_seal
from raybench.storage.base import Storage
from raybench.storage.range_reader import RangeReader


class StoreWarning(UserWarning):
    """Some files of a store could not be read: the warning names them, and their rows are missing."""


@dataclass
class Files:
    """Reader of one storage. Files never change once written, so ids and errors are cached."""

    storage: Storage
    bad: dict[str, str] = field(default_factory=dict)  # key -> why its rows are missing
    _ids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # key of a part -> its ids and statuses
    _sealed: set[str] = field(default_factory=set)  # keys whose seal was found right

    def tables(self, files: Iterable[ResultFile], columns: Sequence[str]) -> list[pa.Table]:
        """Rows of `files` with `columns`, one table per version of the schema; unreadable files are noted in `bad`.

        Raises Moved, and UserError for a file that a newer raybench wrote.
        """
        raw: dict[bytes, list[pa.Table]] = {}
        for file in files:
            table = self._raw(file, columns)
            if table is not None and table.num_rows:
                raw.setdefault(table.schema.serialize().to_pybytes(), []).append(table)
        return [conform(pa.concat_tables(same), columns) for same in raw.values()]

    def row(self, file: ResultFile, trial_id: str, columns: Sequence[str]) -> pa.Table:
        """The one row of `trial_id`; only the row group that holds it is decoded. Raises Moved.

        No row, noted in `bad`, if the file is damaged.
        """
        with self._noted(file.key), self.open(file.key) as parquet:
            start = self._read(parquet, ["trial_id"])["trial_id"].index(trial_id).as_py()
            group = 0
            while start >= parquet.metadata.row_group(group).num_rows:
                start -= parquet.metadata.row_group(group).num_rows
                group += 1
            return conform(parquet.read_row_group(group, self._present(parquet, columns)), columns).slice(start, 1)
        return empty(columns)

    def ids(self, part: ResultFile) -> list[tuple[str, str]]:
        """(trial_id, status) of every row of a part. Raises Moved."""
        if part.key not in self._ids:
            tables = self.tables([part], ["trial_id", "status"])
            self._ids[part.key] = [(row["trial_id"], row["status"]) for table in tables for row in table.to_pylist()]
        return self._ids[part.key]

    @contextmanager
    def open(self, key: str) -> Iterator[pq.ParquetFile]:
        """The Parquet file at `key`, its checksums checked: ValueError or an error of Arrow for a damaged file.

        UserError when a newer raybench wrote it. Raises Moved.
        """
        source = self.storage.open(key)
        if source is None:
            raise Moved(key)
        with source:
            self._check_seal(key, source)
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            version = int((parquet.metadata.metadata or {}).get(VERSION_KEY, b"0"))
            if version > SCHEMA_VERSION:
                raise UserError(
                    f"{self.storage.url}/{key} was written by a newer raybench: found result schema {version}, "
                    f"expected at most {SCHEMA_VERSION}. Update raybench to read this store"
                )
            if version < 1:
                raise ValueError("no raybench schema in its metadata, so another program wrote it")
            yield parquet

    def _check_seal(self, key: str, source: BinaryIO) -> None:
        """ValueError for a broken seal, once for each file.

        Of a large object that is read by ranges, only the checksums of the pages that are read are checked.
        """
        if key in self._sealed or isinstance(getattr(source, "raw", None), RangeReader):
            return
        if why := broken_seal(source):
            raise ValueError(why)
        self._sealed.add(key)

    def warn(self) -> None:
        """Emit one warning that names the unreadable files, if there are any."""
        if self.bad:
            named = "; ".join(f"{key}: {why}" for key, why in sorted(self.bad.items())[:5])
            more = f"; and {len(self.bad) - 5} more" if len(self.bad) > 5 else ""
            lost = f"{len(self.bad)} files in {self.storage.url} are left out: {named}{more}"
            warnings.warn(
                f"{lost}. Run the sweep again to get their rows, and delete the files that it leaves",
                StoreWarning,
                stacklevel=4,
            )

    def _raw(self, file: ResultFile, columns: Sequence[str]) -> pa.Table | None:
        """The requested columns that a file has; None, noted in `bad`, when it is no result file."""
        if file.key in self.bad:
            return None
        table = None
        with self._noted(file.key), self.open(file.key) as parquet:
            names = self._present(parquet, ("trial_id", *columns))
            table = parquet.read(names, use_threads=parquet.metadata.num_rows > 1000)
            found = table["trial_id"].to_pylist() if file.trial_id else []
        if table is None or file.key in self.bad:
            return None
        if file.trial_id and found != [file.trial_id]:
            self.bad[file.key] = f"found rows of {found[:3]}, expected one of {file.trial_id}"
            return None
        return table

    @contextmanager
    def _noted(self, key: str) -> Iterator[None]:
        """Notes in `bad` the error of a file that can't be read, instead of raising it."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            self.bad[key] = f"not a readable result file: {_first_line(error)}"

    def _read(self, parquet: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
        return conform(parquet.read(self._present(parquet, columns)), columns)

    @staticmethod
    def _present(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
        """Those of `columns` that the file has."""
        schema = parquet.schema_arrow
        return [name for name in columns if _has(schema, *name.partition(".")[::2])]


def _has(schema: pa.Schema, column: str, inner: str) -> bool:
    index = schema.get_field_index(column)
    return index >= 0 and (not inner or schema.field(index).type.get_field_index(inner) >= 0)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def concat(tables: Iterable[pa.Table], empty: pa.Table) -> pa.Table:
    """Tables of one schema as one table; `empty` when there are none."""
    found = [table for table in tables if table.num_rows]
    return pa.concat_tables(found) if found else empty


def first_of_each(table: pa.Table) -> pa.Table:
    """One row a trial_id: finished before skipped, then the first. Duplicates exist only after a killed compaction."""
    ids = table["trial_id"]
    if pc.count_distinct(ids).as_py() == table.num_rows:
        return table
    chosen: dict[str, int] = {}
    order = sorted(range(table.num_rows), key=[status != "ok" for status in table["status"].to_pylist()].__getitem__)
    names = ids.to_pylist()
    for index in order:
        chosen.setdefault(names[index], index)
    return table.take(sorted(chosen.values()))
