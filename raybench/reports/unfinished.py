"""What of a storage's sweeps has not finished, for reports that are read while a sweep runs."""

from __future__ import annotations

import shlex

from raybench.errors import counted
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.json_text import is_texts, read_object


def no_results(storage: Storage) -> str:
    """Why `storage` has no rows: a sweep in it has just started, or it is none."""
    from raybench.progress.snapshot import StoreReader, is_there  # with pydantic, which a ranking needs not

    sweeps = StoreReader(storage).read().sweeps if is_there(storage) else ()
    totals = [sweep.total for sweep in sweeps if sweep.total is not None]
    if not totals:
        return f"no results in {storage.url}: expected the --storage folder of a run"
    watch = f"raybench watch {shlex.quote(storage.url)}"
    return f"no cell has finished yet (0 of {sum(totals)}); {watch} shows the progress"


def _short(storage: Storage) -> bool:
    """Whether some plan in the storage has cells without a row; it may be one that a later plan has replaced."""
    plans = storage.list("plans")
    known = Store(storage).statuses() if plans else {}
    for key in plans:
        plan = read_object(storage.read(key), {"cells": is_texts})  # None for one that is damaged: it says nothing
        if plan is not None and not set(plan["cells"]) <= set(known):
            return True
    return False


def unfinished(storage: Storage) -> tuple[str, ...]:
    """One line for each sweep that lacks cells: ``quickstart: 3 of 8 cells have finished``."""
    if not _short(storage):
        return ()
    from raybench.progress.snapshot import StoreReader

    return tuple(
        f"{sweep.name}: {sweep.ended} of {counted(sweep.total, 'cell')} "
        f"{'has' if sweep.total == 1 else 'have'} finished; raybench watch {shlex.quote(storage.url)}"
        for sweep in StoreReader(storage).read().sweeps
        if sweep.total is not None and sweep.ended < sweep.total
    )
