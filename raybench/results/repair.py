"""Checks the result files of a sweep before and after a run, and sets damaged ones aside: their cells run again."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, parse, partition
from raybench.results.seal import broken_seal
from raybench.storage.base import Storage
from raybench.storage.damage import set_aside
from raybench.sweep.trial import Trial

AT_ONCE = 8  # files that are read at the same time, for storages that answer slowly


@dataclass
class Repair:
    """Reads every result file of some trials to its end, each file once. Needs no Arrow."""

    storage: Storage
    _sound: set[str] = field(default_factory=set)  # keys that were read before

    def run(self, trials: Collection[Trial]) -> bool:
        """Set aside damaged files of `trials`, each named in one DamageWarning; whether there were any.

        A damaged part is set aside with all its rows.
        """
        ids = {trial.trial_id for trial in trials}
        folders = {partition(trial.dataset, trial.model) for trial in trials}
        keys = [key for prefix in (CELLS, ATTEMPTS) for key in self.storage.list(prefix) if key not in self._sound]
        wanted = [f.key for key in keys if (f := parse(key)) and (f.trial_id in ids or _is_part(f, folders))]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(wanted, pool.map(self._damage, wanted), strict=True))
        damaged = {key: why for key, why in found.items() if why}
        self._sound |= set(wanted) - set(damaged)
        for key, why in damaged.items():
            set_aside(self.storage, key, why)
        return bool(damaged)

    def _damage(self, key: str) -> str | None:
        source = self.storage.open(key)
        if source is None:
            return None  # compacted meanwhile
        with source:
            return broken_seal(source)


def _is_part(file: ResultFile, folders: Collection[str]) -> bool:
    return file.kind == "part" and file.key.rpartition("/")[0] in folders
