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

from raybench.error_text import first_line
from raybench.errors import RaybenchWarning, UserError, counted
from raybench.results.arrow import VERSION_KEY, conform, empty
from raybench.results.columns import COLUMNS, SCHEMA_VERSION
from raybench.results.constants import array_of, constant
from raybench.results.layout import TRIAL_ID, ResultFile
from raybench.results.left_out import left_out
from raybench.results.moved import Moved
from raybench.results.plausible import described, implausible_rows
from raybench.results.rows import named, wrong_rows
from raybench.results.seal import ROWS_KEY, SEALED_SINCE, broken_seal
from raybench.storage.base import Storage
from raybench.storage.range_reader import RangeReader

MOST_BYTES = 4 << 30  # of one file, unpacked; a million rows are less than half of it


class StoreWarning(RaybenchWarning):
    """Some files of a store could not be read: the warning names them, and their rows are missing.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", StoreWarning)  # an error instead of missing rows
    """


@dataclass
class Files:
    """Reader of one storage. Files never change once written, so ids and errors are cached.

    Attributes:
        storage: the storage of a run.
        bad: key of each unreadable file -> why its rows are missing.

    Example:
        >>> import tempfile, raybench
        >>> from raybench.results.schema import Record
        >>> from raybench.results.encoding import encode
        >>> from raybench.results.layout import cell_key, parse
        >>> from raybench.storage.open import open_storage
        >>> row = Record.skipped(raybench.plan_sweep(raybench.load_sweep("quickstart")).trials[0], "no norms")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     storage = open_storage(folder)
        ...     storage.create(cell_key(row), encode([row]))
        ...     [table] = Files(storage).tables([parse(cell_key(row))], ["model", "reason"])
        True
        >>> table.to_pylist()
        [{'model': 'cifar-resnet20', 'reason': 'no norms'}]
    """

    storage: Storage
    bad: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # key of a part -> its ids and statuses
    _sealed: set[str] = field(default_factory=set)  # keys whose seal was found right
    _partly: set[str] = field(default_factory=set)  # keys in `bad` of which some rows are left
    _wrong: dict[str, list[int]] = field(default_factory=dict)  # key -> its rows that raybench can't have written

    def tables(self, files: Iterable[ResultFile], columns: Sequence[str]) -> list[pa.Table]:
        """Rows of `files`, one table for each version of the schema. Unreadable files are noted in `bad`.

        Args:
            files: the files to read.
            columns: the columns to read. A dotted name is a field of a struct column.

        Returns:
            Tables with exactly `columns`; none for files without rows.

        Raises:
            Moved: a file no longer exists.
            UserError: a newer raybench wrote one of the files.
        """
        raw: dict[bytes, list[tuple[str, pa.Table]]] = {}
        for file in files:
            table = self._raw(file, columns)
            if table is not None and table.num_rows:
                raw.setdefault(table.schema.serialize().to_pybytes(), []).append((file.key, table))
        return [found for same in raw.values() for found in self._plausible(same, columns)]

    def row(self, file: ResultFile, trial_id: str, columns: Sequence[str]) -> pa.Table:
        """The row of one trial; only the row group that holds it is decoded.

        Args:
            file: the part that has the row.
            trial_id: the whole trial_id.
            columns: the columns to read.

        Returns:
            A table of one row; of no row, noted in `bad`, if the file is damaged.

        Raises:
            Moved: the file no longer exists.
            UserError: a newer raybench wrote it.
        """
        with self._noted(file.key), self.open(file.key) as parquet:
            start = self._read(parquet, ["trial_id"])["trial_id"].index(trial_id).as_py()
            group = 0
            while start >= parquet.metadata.row_group(group).num_rows:
                start -= parquet.metadata.row_group(group).num_rows
                group += 1
            found = conform(parquet.read_row_group(group, self._present(parquet, columns)), columns).slice(start, 1)
            found.validate(full=True)
            return self._checked(key=file.key, table=found)
        return empty(columns)

    def ids(self, part: ResultFile) -> list[tuple[str, str]]:
        """(trial_id, status) of every row of a part.

        Args:
            part: a compacted file.

        Returns:
            One pair a row, in the part's order.

        Raises:
            Moved: the file no longer exists.
            UserError: a newer raybench wrote it.
        """
        if part.key not in self._ids:
            tables = self.tables([part], ["trial_id", "status"])
            self._ids[part.key] = [(row["trial_id"], row["status"]) for table in tables for row in table.to_pylist()]
        return self._ids[part.key]

    @contextmanager
    def open(self, key: str) -> Iterator[pq.ParquetFile]:
        """Open the Parquet file at `key` in a `with` block, its checksums checked.

        Args:
            key: key in the storage.

        Returns:
            A context manager that gives the open file.

        Raises:
            Moved: the file no longer exists.
            UserError: a newer raybench wrote it.
            ValueError: it is damaged, or another program wrote it. Errors of Arrow mean the same.
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
            groups = (parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups))
            if (size := sum(group.total_byte_size for group in groups)) > MOST_BYTES:
                raise ValueError(f"it unpacks to {size >> 30} GiB, expected at most {MOST_BYTES >> 30}")
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
            warnings.warn(left_out(self.storage.url, self.bad), StoreWarning, stacklevel=4)

    def _raw(self, file: ResultFile, columns: Sequence[str]) -> pa.Table | None:
        """The requested columns that a file has; None, noted in `bad`, when it is no result file."""
        if file.key in self.bad and not self._wrong.get(file.key) and file.key not in self._partly:
            return None
        right = None
        with self._noted(file.key), self.open(file.key) as parquet:
            names = self._present(parquet, tuple(dict.fromkeys(("trial_id", "status", *columns))))
            table = parquet.read(names, use_threads=parquet.metadata.num_rows > 1000)
            if file.trial_id and (other := _other_row(file, table)):
                self.bad[file.key] = other
                return None
            table.validate(full=True)  # e.g. text that is no UTF-8
            wrong = set(self._wrong_rows(file.key, parquet))
            left = [index for index in range(table.num_rows) if index not in wrong] if wrong else []
            right = self._of_trials(file.key, table.take(array_of(int, left)) if wrong else table)
        return right

    def _plausible(self, same: list[tuple[str, pa.Table]], columns: Sequence[str]) -> list[pa.Table]:
        """The rows of files of one schema that raybench can have written, with `columns`.

        All files are looked at together, and one by one only if there is such a row.
        """
        names = tuple(dict.fromkeys(("trial_id", "status", *columns)))
        try:
            table = conform(pa.concat_tables([table for _, table in same]), names)
            odd = bool(implausible_rows(table))
        except pa.ArrowException:  # a column of a type that can't be made ours, or a value in it
            odd = True
        if odd:
            table = concat([table for key, own in same for table in self._conforming(key, own, names)], empty(names))
        return [table.select(list(columns))] if table.num_rows else []

    def _conforming(self, key: str, table: pa.Table, names: Sequence[str]) -> list[pa.Table]:
        """The rows of one file that raybench can have written, with the columns `names`; none if they can't be read."""
        with self._noted(key):
            return [self._checked(key, conform(table, names))]
        return []

    def _checked(self, key: str, table: pa.Table) -> pa.Table:
        """The rows that raybench can have written; others are noted in `bad`."""
        found = implausible_rows(table)
        if not found:
            return table
        self._partly.add(key)
        self.bad[key] = described(table, found)
        return table.take(array_of(int, [place for place in range(table.num_rows) if place not in found]))

    def _of_trials(self, key: str, table: pa.Table) -> pa.Table:
        """The rows whose trial_id is one; others, from which names of files would be made, are noted in `bad`."""
        right = pc.fill_null(pc.match_substring_regex(table["trial_id"], f"^{TRIAL_ID}$"), constant(False))
        if pc.all(right, min_count=0).as_py():
            return table
        self._partly.add(key)
        self.bad[key] = f"{counted(table.num_rows - pc.sum(right).as_py(), 'row')} without a trial_id of 16 hex digits"
        return table.filter(right)

    def _wrong_rows(self, key: str, parquet: pq.ParquetFile) -> list[int]:
        """Numbers of the rows that aren't as raybench wrote them, noted in `bad`. Most files say that there is none.

        Reads every column, once for each file.
        """
        facts = parquet.metadata.metadata or {}
        if ROWS_KEY in facts or int(facts[VERSION_KEY]) < SEALED_SINCE:
            return []
        if key not in self._wrong:
            table = self._read(parquet, [column.name for column in COLUMNS])
            wrong, odd = wrong_rows(table), implausible_rows(table)
            self._wrong[key] = sorted({*wrong, *odd})
            if self._wrong[key]:
                self.bad[key] = named(table, wrong) if wrong else described(table, odd)
        return self._wrong[key]

    @contextmanager
    def _noted(self, key: str) -> Iterator[None]:
        """Notes in `bad` the error of a file that can't be read, instead of raising it."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            self.bad[key] = f"not a readable result file: {first_line(error)}"

    def _read(self, parquet: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
        return conform(parquet.read(self._present(parquet, columns)), columns)

    @staticmethod
    def _present(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
        """Those of `columns` that the file has."""
        schema = parquet.schema_arrow
        return [name for name in columns if _has(schema, *name.partition(".")[::2])]


def _has(schema: pa.Schema, column: str, inner: str) -> bool:
    index = schema.get_field_index(column)
    if index < 0 or not inner:
        return index >= 0
    kind = schema.field(index).type
    return pa.types.is_struct(kind) and kind.get_field_index(inner) >= 0


def _other_row(file: ResultFile, table: pa.Table) -> str | None:
    """Why the rows of a file aren't the one that its name says; None if they are."""
    found = [f"{row['trial_id']} ({row['status']})" for row in table.select(["trial_id", "status"]).to_pylist()]
    expected = f"{file.trial_id} ({file.status})"
    return None if found == [expected] else f"found rows of {', '.join(found[:3])}, expected one of {expected}"


def concat(tables: Iterable[pa.Table], empty: pa.Table) -> pa.Table:
    """Tables of one schema as one table.

    Args:
        tables: the tables; those without rows are left out.
        empty: what to return when there are none.

    Returns:
        All rows, in the order of `tables`.

    Example:
        >>> concat([pa.table({"n": [1]}), pa.table({"n": [2]})], pa.table({"n": []}))["n"].to_pylist()
        [1, 2]
    """
    found = [table for table in tables if table.num_rows]
    return pa.concat_tables(found) if found else empty


def first_of_each(table: pa.Table) -> pa.Table:
    """One row for each trial_id: finished before skipped, then the first.

    Duplicates exist only after a killed compaction.

    Args:
        table: rows with the columns `trial_id` and `status`.

    Returns:
        `table` without the duplicates, in the same order.

    Example:
        >>> first_of_each(pa.table({"trial_id": ["a", "a"], "status": ["skipped", "ok"]})).to_pylist()
        [{'trial_id': 'a', 'status': 'ok'}]
    """
    ids = table["trial_id"]
    if pc.count_distinct(ids).as_py() == table.num_rows:
        return table
    chosen: dict[str, int] = {}
    order = sorted(range(table.num_rows), key=[status != "ok" for status in table["status"].to_pylist()].__getitem__)
    names = ids.to_pylist()
    for index in order:
        chosen.setdefault(names[index], index)
    return table.take(sorted(chosen.values()))
