"""Outcome of one unit, and the result row that a failed or skipped one gets. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raybench.plan.records import Unit
from raybench.plan.share import file_of
from raybench.results.layout import cell_key
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.sweep.target import amount
from raybench.sweep.trial import Trial
from raybench.sweep.weights import NONE

UnitStatus = Literal["ok", "failed", "skipped", "busy", "again"]


@dataclass(frozen=True)
class Outcome:
    """How one unit ended. A failed or skipped cell already has its row; `busy` means that another driver runs it.

    `again`: a shared stage that it reads was damaged or gone; it has no row, and the next plan has both.
    """

    key: str
    kind: str
    status: UnitStatus
    stage: str = ""  # the stage that was running at the end
    error_type: str = ""
    error_message: str = ""  # for "skipped": the reason
    traceback_path: str = ""  # key in the storage, empty without one
    seconds: float = 0.0
    summary: Mapping[str, float] = field(default_factory=dict)  # a few figures for the progress panel
    damage: tuple[str, ...] = ()  # one line for each file that was set aside
    share_note: str = ""  # for the row: why it had its share of a device


def is_done(unit: Unit, storage: Storage) -> bool:
    """Whether the storage has everything that `unit` makes. Compacted cells are not found here; the plan skips them."""
    if unit.kind == "cell":
        row = unit.trials[0].model_dump(include={"dataset", "model"}) | {"trial_id": unit.key}
        return any(storage.has(cell_key({**row, "status": status})) for status in ("ok", "skipped"))
    if unit.kind == "probe":
        return storage.has(file_of(unit.key))
    keys = [trial.select_key for trial in unit.trials] if unit.kind == "select" else [unit.key]
    return all(storage.has(f"stages/{key}") for key in keys)


def label_of(unit: Unit) -> str:
    """A unit as text for the progress panel: ``cifar-resnet20 magnitude-l2 2x global seed 0``."""
    return f"{_what(unit)} recipe {unit.recipe}" if unit.recipe else _what(unit)


def _what(unit: Unit) -> str:
    """The label without the recipe, which most sweeps have one of."""
    trial = unit.trials[0]
    if unit.kind == "probe":
        return f"share of a GPU for {trial.model} on {trial.dataset}"
    if unit.kind == "base":
        return f"{trial.model} on {trial.dataset}"
    if unit.kind == "sparsify":
        aim = f"{amount(*trial.asked)} {trial.strategy} " if trial.importance.trained else ""
        return f"{trial.model} {trial.label} {aim}seed {trial.seed}"
    speedups = ", ".join(amount(*t.asked) for t in unit.trials)
    depth = f"depth {trial.depth:g} " if trial.shallower else ""
    size = "" if trial.image_size is None else f"images of {trial.image_size} "
    moved = "" if trial.transfer == NONE else f"{trial.transfer} "
    rules = "" if trial.protocol == "raybench" else f"{trial.protocol} "
    return f"{trial.model} {trial.label} {speedups} {trial.strategy} {depth}{size}{moved}{rules}seed {trial.seed}"


def settle(outcome: Outcome, trial: Trial, store: Store) -> None:
    """Publish the row of `trial` for an outcome that is not ok: its own, or that of a shared stage it needs."""
    if outcome.status == "skipped":
        store.publish(Record.skipped(trial, outcome.error_message))
    else:
        store.publish_attempt(
            Record.failed(
                trial,
                stage=outcome.stage,
                error_type=outcome.error_type,
                error_message=outcome.error_message,
                traceback_path=outcome.traceback_path,
                share_note=outcome.share_note or None,
            )
        )
