"""Checks the result files of a sweep before and after a run: damaged ones are set aside, their whole rows rescued."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, parse, partition
from raybench.results.seal import broken_seal, newer, rows_checked, rows_mark
from raybench.storage.base import Storage
from raybench.storage.damage import set_aside
from raybench.sweep.digests import digest
from raybench.sweep.trial import Trial

if TYPE_CHECKING:  # a store without damage, written by this version, is checked without Arrow
    import pyarrow as pa

AT_ONCE = 8  # files that are read at the same time, for storages that answer slowly


@dataclass(frozen=True)
class Damage:
    """A damaged result file.

    Attributes:
        file: the file.
        why: what is wrong with it.
        rescued: trial_id -> status of every row in it that is whole: a run keeps these.
        note: how many of its rows are whole, for a message.

    Example:
        >>> Damage(parse("results/cells/dataset=digits/model=my-net/0123456789abcdef.parquet"), "it is cut short").why
        'it is cut short'
    """

    file: ResultFile
    why: str
    rescued: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass
class Repair:
    """Reads every result file of some trials to its end, each file once.

    Attributes:
        storage: the storage of a run.

    Example:
        >>> import tempfile
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Repair(open_storage(folder)).run([])
        False
    """

    storage: Storage
    _sound: set[str] = field(default_factory=set)  # keys that were read before

    def look(self, trials: Collection[Trial]) -> list[Damage]:
        """Find damaged files and change nothing.

        Args:
            trials: the trials whose files are read, parts of their datasets and models included.

        Returns:
            The damaged files: their checksum is wrong, or that of one of their rows.
        """
        ids = {trial.trial_id for trial in trials}
        folders = {partition(trial.dataset, trial.model) for trial in trials}
        return self._damaged(lambda file: file.trial_id in ids or _is_part(file, folders))

    def look_at_all(self) -> list[Damage]:
        """Find the damaged ones among all result files, each of which is read once, and change nothing.

        Returns:
            The damaged files.
        """
        return self._damaged(lambda file: True)

    def _damaged(self, is_wanted: Callable[[ResultFile], bool]) -> list[Damage]:
        """The damaged ones among those files that weren't found whole before."""
        keys = [key for prefix in (CELLS, ATTEMPTS) for key in self.storage.list(prefix) if key not in self._sound]
        wanted = [file for key in keys if (file := parse(key)) and is_wanted(file)]
        if not wanted:
            return []
        from concurrent.futures import ThreadPoolExecutor  # 20 ms: a plan of a new sweep needs none

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self._damage, wanted))
        damaged = [damage for damage in found if damage]
        self._sound |= {file.key for file in wanted} - {damage.file.key for damage in damaged}
        return damaged

    def run(self, trials: Collection[Trial]) -> bool:
        """Set aside damaged files, each named in one DamageWarning. Their whole rows are written anew.

        Args:
            trials: the trials whose files are read.

        Returns:
            Whether there were any.
        """
        damaged = self.look(trials)
        for damage in damaged:
            self._set_aside(damage)
        return bool(damaged)

    def _damage(self, file: ResultFile) -> Damage | None:
        source = self.storage.open(file.key)
        if source is None:
            return None  # compacted meanwhile
        with source:
            why = broken_seal(source)
            if why is None and (rows_checked(source, rows_mark(file.trial_id, file.status)) or newer(source)):
                return None
            source.seek(0)
            return _examined(file, source.read(), why)

    def _set_aside(self, damage: Damage) -> None:
        """Write the whole rows of a part before it is moved away, so that a kill in between loses none."""
        file, rows = damage.file, None
        data = self.storage.read(file.key) if damage.rescued else None
        if data is not None:
            from raybench.results.rescue import whole_rows

            rows = whole_rows(data)
        if rows is not None and file.kind == "part":
            self._write(_rescued_key(file, rows), rows)
        set_aside(self.storage, file.key, damage.why + damage.note)
        if rows is not None and file.kind != "part":
            self._write(file.key, rows)

    def _write(self, key: str, rows: pa.Table) -> None:
        from raybench.results.encoding import encode

        self.storage.create(key, encode(rows))


def _examined(file: ResultFile, data: bytes, why: str | None) -> Damage | None:
    """What is wrong with a file whose seal is broken, or whose rows were not checked when it was written."""
    from raybench.results.rescue import row_count, whole_rows

    whole, count = whole_rows(data), row_count(data)
    found = whole.select(["trial_id", "status"]).to_pylist()
    if file.trial_id and found and found != [{"trial_id": file.trial_id, "status": file.status}]:
        return Damage(file, why or "it holds another row than its name says")
    if why is None and whole.num_rows == count:
        return None
    why = why or "rows can't be read, have other columns than their checksums are of, or are none that raybench writes"
    of = f" of its {count} rows" if count is not None else " rows"
    rescued = {row["trial_id"]: row["status"] for row in found}
    return Damage(file, why, rescued, f"; {whole.num_rows}{of} are whole and kept" if rescued else "")


def _rescued_key(part: ResultFile, rows: pa.Table) -> str:
    """A part's key that differs from that of the damaged one, also where all of its rows are whole."""
    folder = part.key.rpartition("/")[0]
    return f"{folder}/part-{digest('rescued', part.key, sorted(rows['trial_id'].to_pylist()))}.parquet"


def _is_part(file: ResultFile, folders: Collection[str]) -> bool:
    return file.kind == "part" and file.key.rpartition("/")[0] in folders
