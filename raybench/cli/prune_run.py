"""The pipeline's units of a few trials, run one after the other in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raybench.cli.prune import select_unit_key
from raybench.errors import UserError
from raybench.pipeline.check import check_input
from raybench.pipeline.outcome import Outcome, is_done, label_of, settle
from raybench.pipeline.room import Room
from raybench.pipeline.trial import run_unit
from raybench.plan import Unit, why_not
from raybench.progress.epochs import epochs_told
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.spec.trial import Trial
from raybench.storage.open import open_storage


def run_trials(
    trials: Sequence[Trial], output: Path, device: str | None, roots: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Run what `output` doesn't hold yet and return one row a trial; stages that `output` holds are not repeated."""
    room = Room(
        storage=open_storage(str(output)),
        device=_device(device),
        data_roots={name: Path(root) for name, root in roots.items()},
    )
    store = Store(room.storage)
    known = store.statuses()
    missing = [trial for trial in trials if known.get(trial.trial_id) not in ("ok", "skipped")]
    for trial in [trial for trial in missing if why_not(trial)]:
        store.publish(Record.skipped(trial, str(why_not(trial))))
        missing.remove(trial)
    units = [unit for unit in _units(missing) if not is_done(unit, room.storage)]
    check_input(units, room.data_roots, room.storage)
    for unit in units:
        print(f"{unit.kind}: {label_of(unit)} ...", file=sys.stderr)
        with epochs_told(lambda text: print(f"  {text}", file=sys.stderr)):
            outcome = run_unit(unit, room)
        if outcome.status == "busy" or (outcome.status != "ok" and unit.kind != "cell"):
            for trial in missing:
                _settle(outcome, trial, store)
            break
    return [store.record(trial.trial_id) for trial in trials]


def _units(trials: Sequence[Trial]) -> list[Unit]:
    """In the order of need: base, sparsify, select, and each cell."""
    if not trials:
        return []
    first = trials[0]
    units = [Unit(first.base_key, "base", (first,))]
    if first.sparsify_key:
        units.append(Unit(first.sparsify_key, "sparsify", (first,)))
    units.append(Unit(select_unit_key(trials), "select", tuple(trials)))
    return units + [Unit(trial.trial_id, "cell", (trial,)) for trial in trials]


def _settle(outcome: Outcome, trial: Trial, store: Store) -> None:
    if outcome.status == "busy":
        raise UserError(
            f"another process works on {trial.model} in {store.storage.url}; wait for it, or use another -o"
        )
    settle(outcome, trial, store)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device
