"""The results of a sweep: a folder of Parquet files, written once and read as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from raybench.errors import UserError, nearest
from raybench.results.columns import COLUMNS
from raybench.results.encoding import encode
from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, attempt_key, cell_key, last_attempts, parse
from raybench.results.looked import parts_below
from raybench.storage.base import Storage

if TYPE_CHECKING:  # importing Arrow takes a quarter of a second, and a plan over small files needs none of it
    import pyarrow as pa

    from raybench.results.files import Files
    from raybench.results.schema import Record

T = TypeVar("T")
Row = Mapping[str, Any]
ALL_COLUMNS = tuple(c.name for c in COLUMNS)


class Store:
    """Results below one storage. Cells are written once, each failure adds an attempt, and no file is modified.

    Args:
        storage: the storage of a run, e.g. ``open_storage("results/quickstart")``.

    Example:
        >>> import tempfile
        >>> from raybench.results.schema import Record
        >>> from raybench.results.store import Store
        >>> from raybench.storage.open import open_storage
        >>> from raybench.sweep.recipe import Recipe, TrainRecipe
        >>> from raybench.sweep.trial import MethodRef, Trial
        >>> stage = TrainRecipe(epochs=1, lr=0.1)
        >>> recipe = Recipe(name="short", base=stage, sparsify=stage, finetune=stage)
        >>> criterion = MethodRef(name="random")
        >>> trial = Trial(dataset="digits", model="my-net", importance=criterion, speedup=2.0, recipe=recipe)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(open_storage(folder))
        ...     store.publish(Record.skipped(trial, reason="an example"))
        ...     list(store.statuses().values())
        True
        ['skipped']
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._files: Files | None = None

    def publish(self, record: Record) -> bool:
        """Write a finished or skipped cell.

        Args:
            record: the cell's row, status ok or skipped.

        Returns:
            True when it was written, False when the store already had this cell; the first row stays.

        Raises:
            ValueError: the record is that of a failed attempt.
        """
        if record["status"] == "failed":
            raise ValueError("a failed attempt is published by publish_attempt")
        key = cell_key(record)
        parts = parts_below(self.storage, key.rpartition("/")[0])
        if parts and record["trial_id"] in self._statuses(parts):
            return False
        return self.storage.create(key, encode([record]))

    def publish_attempt(self, record: Record) -> int:
        """Write a failed attempt under the next free number of its cell.

        Args:
            record: the attempt's row; its own attempt number is replaced.

        Returns:
            The number.
        """
        trial_id = record["trial_id"]
        taken = [file.attempt for file in self.listing(ATTEMPTS) if file.trial_id == trial_id]
        for attempt in count(max(taken, default=0) + 1):
            if self.storage.create(attempt_key(trial_id, attempt), encode([record.replaced(attempt=attempt)])):
                return attempt
        raise AssertionError("count() never ends")

    def statuses(self) -> dict[str, str]:
        """Status of every cell, from file names; only compacted parts are opened, for two columns.

        Returns:
            trial_id -> ok, failed or skipped.
        """

        def read() -> dict[str, str]:
            failed = {file.trial_id: "failed" for file in self.listing(ATTEMPTS) if file.trial_id}
            return failed | self._statuses(self.listing(CELLS))

        return self.settled(read)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All cells, then the last failed attempt of every trial without a cell.

        Args:
            columns: columns to read, in this order; None reads all. A dotted name is a field of a struct column:
                ``provenance.torch``.

        Returns:
            One row a trial. Files that can't be read are left out and named in one StoreWarning.

        Raises:
            UserError: a newer raybench wrote one of the files.
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
        """The whole row of one trial.

        Args:
            prefix: the first digits of its trial_id.

        Returns:
            Column name -> value: its cell, or its last failed attempt.

        Raises:
            UserError: no trial_id, or several, start with `prefix`, or the files can't be read.
        """
        return self.settled(lambda: self._row(self.find(prefix)))

    def find(self, prefix: str) -> str:
        """The trial_id that starts with `prefix`.

        Args:
            prefix: the first digits of a trial_id.

        Returns:
            The whole trial_id.

        Raises:
            UserError: no trial_id, or several, start with `prefix`.
        """
        ids = self.statuses()
        found = sorted(i for i in ids if i.startswith(prefix)) if prefix else []
        if len(found) == 1:
            return found[0]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise UserError(f"trial id {prefix!r} is not unique: {', '.join(found[:5])}{more} start with it")
        raise UserError(f"no trial {prefix!r} among the {len(ids)} in {self.storage.url}.{nearest(prefix, ids)}")

    def attempts(self, trial_id: str) -> tuple[str, ...]:
        """Keys of the failed attempts of one trial.

        Args:
            trial_id: the whole trial_id.

        Returns:
            Keys in the storage, oldest first.
        """
        found = [file for file in self.listing(ATTEMPTS) if file.trial_id == trial_id]
        return tuple(file.key for file in sorted(found, key=lambda file: file.attempt))

    def timings(self) -> dict[tuple[str, ...], float]:
        """Mean durations of finished cells and of the stages they share, for the cost of a plan.

        Returns:
            (kind of unit, dataset, model, recipe) -> mean seconds; kinds are base, sparsify, select and cell. For a
            selection protocol and criterion follow. Of each dataset and model, all parts and at most 16 uncompacted
            files are read.
        """
        from raybench.results.timings import TIMED, mean_seconds, sample

        def read() -> list[Row]:
            cells = [file for file in self.listing(CELLS) if file.status != "skipped"]
            return [row for table in self.files.tables(sample(cells), TIMED) for row in table.to_pylist()]

        return mean_seconds(self.settled(read))

    def add(self, table: pa.Table) -> int:
        """Write many cells as parts.

        Args:
            table: cells with every column, one row a trial_id, none of which the store has.

        Returns:
            The number of files.
        """
        from raybench.results.parts import write_parts

        return len(write_parts(self.storage, self.files, table))

    def uncompacted(self) -> int:
        """Number of cells that are not yet in a part.

        Returns:
            The number of single-cell files.
        """
        return sum(file.kind == "cell" for file in self.listing(CELLS))

    def listing(self, prefix: str) -> list[ResultFile]:
        """Result files below a prefix; other files are noted for the next warning.

        Args:
            prefix: start of the keys: `CELLS`, `ATTEMPTS` or a folder below.

        Returns:
            The files, sorted by key.
        """
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
        from raybench.results.schema import row_sha256

        cells = [f for f in self.listing(CELLS) if f.kind == "part" or f.trial_id == trial_id]
        own = sorted((f for f in cells if f.trial_id), key=lambda f: f.status != "ok")
        parts = [f for f in cells if f.kind == "part" and trial_id in self._statuses([f])]
        failed = sorted((f for f in self.listing(ATTEMPTS) if f.trial_id == trial_id), key=lambda f: -f.attempt)
        for file in [*own, *parts, *failed]:
            for row in self._read_row(file, trial_id):
                if row["row_sha256"] not in (None, row_sha256(row)):
                    self.files.bad[file.key] = f"the row of {trial_id} has other columns than its checksum is of"
                else:
                    return row
        self.files.warn()
        raise UserError(f"the files of trial {trial_id} can't be read: {', '.join(f.key for f in own or failed)}")

    def _read_row(self, file: ResultFile, trial_id: str) -> list[Row]:
        """The row of `trial_id` in `file`, with every column; none, noted for the next warning, if it is damaged."""
        if file.kind == "part":
            return self.files.row(file, trial_id, ALL_COLUMNS).to_pylist()
        return [row for table in self.files.tables([file], ALL_COLUMNS) for row in table.to_pylist()]

    def settled(self, read: Callable[[], T]) -> T:
        """Call a function that reads the store, again while a compaction moves files, at most 20 times.

        Args:
            read: the function; it lists the files it reads anew at each call.

        Returns:
            What it returns.

        Raises:
            UserError: files were deleted at every try.
        """
        from raybench.results.moved import Moved

        for _ in range(20):
            try:
                return read()
            except Moved as moved:
                missing = moved
        raise UserError(f"{self.storage.url}: {missing} and others were deleted while they were read; try again")
