"""The folder of Parquet that is the only state of a sweep. The one place that writes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from raybench.errors import UserError, nearest
from raybench.results.columns import COLUMNS
from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, attempt_key, cell_key, parse
from raybench.storage.base import Storage

if TYPE_CHECKING:  # Arrow takes a quarter of a second to import: a plan over small files needs none of it
    import pyarrow as pa

    from raybench.results.files import Files
    from raybench.results.schema import Record

T = TypeVar("T")
Row = Mapping[str, Any]
ALL_COLUMNS = tuple(c.name for c in COLUMNS)
ROW_GROUP = 8192  # rows: `show` decodes one group, a ranking over 100,000 rows opens a dozen
TIMED_FILES = 16  # small files a partition that `timings` opens


class Store:
    """Results below one storage. Cells are written once; a failure is one more attempt; nothing is changed in place."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._files: Files | None = None

    def publish(self, record: Record) -> bool:
        """Write a finished or skipped cell; False when the store has that trial_id already (its row stays)."""
        if record["status"] == "failed":
            raise ValueError("a failed attempt is published by publish_attempt")
        key = cell_key(record)
        parts = [file for file in self.listing(key.rpartition("/")[0]) if file.kind == "part"]
        if parts and record["trial_id"] in self._statuses(parts):
            return False
        return self.storage.create(key, encode([record]))

    def publish_attempt(self, record: Record) -> int:
        """Write a failure under the next free attempt number of its cell, and return that number."""
        trial_id = record["trial_id"]
        taken = [file.attempt for file in self.listing(ATTEMPTS) if file.trial_id == trial_id]
        for attempt in count(max(taken, default=0) + 1):
            if self.storage.create(attempt_key(trial_id, attempt), encode([record.replaced(attempt=attempt)])):
                return attempt
        raise AssertionError("count() never ends")

    def statuses(self) -> dict[str, str]:
        """trial_id -> ok, failed or skipped, from file names; only compacted parts are opened (two columns)."""

        def read() -> dict[str, str]:
            failed = {file.trial_id: "failed" for file in self.listing(ATTEMPTS) if file.trial_id}
            return failed | self._statuses(self.listing(CELLS))

        return self.settled(read)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Cells, then the last attempt of ids without a cell; `columns` (all) in the order given, wide ones on demand.

        Files that can't be read are left out and named in one StoreWarning. A dotted name reaches into a struct.
        """
        from raybench.results.arrow import arrow_schema, empty
        from raybench.results.files import concat, first_of_each

        names = tuple(columns or ALL_COLUMNS)
        read = tuple(dict.fromkeys(("trial_id", "status", *names)))

        def gather() -> pa.Table:
            cells, attempts = self.listing(CELLS), self.listing(ATTEMPTS)
            done = first_of_each(concat(self.files.tables(cells, read), empty(read)))
            known = set(done["trial_id"].to_pylist()) if attempts else set()
            failed = concat(self.files.tables(last_attempts(attempts, known), read), empty(read))
            return concat([done, failed], empty(read))

        table = self.settled(gather)
        self.files.warn()
        metadata = arrow_schema().metadata if columns is None else None
        return table.select(names).replace_schema_metadata(metadata)

    def record(self, prefix: str) -> Row:
        """Everything known of the one trial whose id starts with `prefix`; UserError when none or several do."""
        return self.settled(lambda: self._row(self.find(prefix)))

    def find(self, prefix: str) -> str:
        """The trial_id that starts with `prefix`; UserError when none or several do."""
        ids = self.statuses()
        found = sorted(i for i in ids if i.startswith(prefix)) if prefix else []
        if len(found) == 1:
            return found[0]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise UserError(f"trial id {prefix!r} is not unique: {', '.join(found[:5])}{more} start with it")
        raise UserError(f"no trial {prefix!r} among the {len(ids)} in {self.storage.url}.{nearest(prefix, ids)}")

    def attempts(self, trial_id: str) -> tuple[str, ...]:
        """Keys of the failed attempts of one trial, oldest first."""
        found = [file for file in self.listing(ATTEMPTS) if file.trial_id == trial_id]
        return tuple(file.key for file in sorted(found, key=lambda file: file.attempt))

    def timings(self) -> dict[tuple[str, str, str, str], float]:
        """(kind of unit, dataset, model, recipe) -> mean seconds of finished cells, for the cost of a plan.

        Kinds are base, sparsify, select and cell. At most 16 uncompacted files a partition are looked at.
        """
        from raybench.results.timings import TIMED, mean_seconds

        def read() -> list[Row]:
            sample = _sample([file for file in self.listing(CELLS) if file.status != "skipped"])
            return [row for table in self.files.tables(sample, TIMED) for row in table.to_pylist()]

        return mean_seconds(self.settled(read))

    def add(self, table: pa.Table) -> int:
        """Write many cells as parts, at most 65,536 rows each; the number of files. Rows must be whole and distinct."""
        from raybench.results.compaction import write_parts

        return len(write_parts(self, table))

    def uncompacted(self) -> int:
        """Number of cells that still lie in a file each."""
        return sum(file.kind == "cell" for file in self.listing(CELLS))

    def listing(self, prefix: str) -> list[ResultFile]:
        """Result files below `prefix`; others are noted, to be named by the next warning."""
        found = []
        for key in self.storage.list(prefix):
            file = parse(key)
            if file is None:
                self.files.bad[key] = "no name that raybench writes"
            else:
                found.append(file)
        return found

    @property
    def files(self) -> Files:
        """The reader of this store's files."""
        if self._files is None:
            from raybench.results.files import Files

            self._files = Files(self.storage)
        return self._files

    def _statuses(self, cells: Iterable[ResultFile]) -> dict[str, str]:
        pairs = [(file.trial_id, file.status) for file in cells if file.trial_id]
        pairs += [pair for file in cells if file.kind == "part" for pair in self.files.ids(file)]
        return dict(pairs) | {trial_id: status for trial_id, status in pairs if status == "ok"}

    def _row(self, trial_id: str) -> Row:
        cells = [f for f in self.listing(CELLS) if f.kind == "part" or f.trial_id == trial_id]
        own = sorted((f for f in cells if f.trial_id), key=lambda f: f.status != "ok")
        parts = [f for f in cells if f.kind == "part" and trial_id in self._statuses([f])]
        failed = sorted((f for f in self.listing(ATTEMPTS) if f.trial_id == trial_id), key=lambda f: -f.attempt)
        for file in [*own, *parts, *failed]:
            if file.kind == "part":
                return self.files.row(file, trial_id, ALL_COLUMNS).to_pylist()[0]
            for table in self.files.tables([file], ALL_COLUMNS):
                return table.to_pylist()[0]
        self.files.warn()
        raise UserError(f"the files of trial {trial_id} can't be read: {', '.join(f.key for f in own or failed)}")

    def settled(self, read: Callable[[], T]) -> T:
        """What `read` returns, read over again while a compaction moves files: rows move, they never leave."""
        from raybench.results.moved import Moved

        for _ in range(20):
            try:
                return read()
            except Moved as moved:
                missing = moved
        raise UserError(f"{self.storage.url}: {missing} keeps vanishing while it is read; try again")


def last_attempts(attempts: Iterable[ResultFile], known: Iterable[str]) -> list[ResultFile]:
    """The last attempt of every trial that is not `known` to have a cell, by trial_id."""
    last = {f.trial_id: f for f in sorted(attempts, key=lambda f: (f.trial_id, f.attempt))}
    return [file for trial_id, file in last.items() if trial_id not in known]


def encode(rows: Iterable[Row] | pa.Table) -> bytes:
    """Rows, or a table with every column, as the bytes of one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raybench.results.arrow import arrow_schema, to_table

    table = rows if isinstance(rows, pa.Table) else to_table(rows)
    small = table.num_rows == 1  # dictionaries, statistics and a second schema would be most of a small file
    schema = arrow_schema().remove_metadata()
    sink = io.BytesIO()
    options = {"use_dictionary": not small, "write_statistics": not small, "store_schema": False}
    with pq.ParquetWriter(sink, schema, compression="zstd", **options) as writer:
        writer.add_key_value_metadata(arrow_schema().metadata)
        writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return sink.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table of any columns, such as a leaderboard's, as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Rows of any columns as CSV in UTF-8; sequences are joined by spaces, None is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in row.items()})
    return text.getvalue().encode()


def _sample(files: Sequence[ResultFile]) -> list[ResultFile]:
    """Every part, and at most TIMED_FILES small files of each partition, spread evenly."""
    partitions: dict[str, list[ResultFile]] = {}
    for file in files:
        partitions.setdefault(file.key.rpartition("/")[0], []).append(file)
    chosen = []
    for members in partitions.values():
        small = [file for file in members if file.kind == "cell"]
        chosen += [file for file in members if file.kind == "part"]
        chosen += small[:: -(-len(small) // TIMED_FILES) or 1]
    return chosen
