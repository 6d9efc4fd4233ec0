"""The cells of a search: those of one method on one network and dataset, run where missing, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from raybench.errors import UserError, nearest
from raybench.execution.run import SweepEnd, run_sweep
from raybench.results.store import Store
from raybench.search.space import Point
from raybench.storage.open import open_storage
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount, TargetKind
from raybench.sweep.trial import Trial

Row = Mapping[str, Any]


class Interrupted(Exception):
    """Ctrl-C ended a run; the same search continues."""


@dataclass(frozen=True)
class Sample:
    """A point and what was measured there, the mean over seeds."""

    point: Point
    trial_id: str  # of the first seed
    macs: float
    speedup: float  # in MACs
    got: float  # of what the target is of: base / pruned, or milliseconds
    share: float  # of the base network's cost, in the same
    reason: str | None  # what the rows say of the amount that was asked of them
    value: float  # on the split that selects an epoch; without fine-tuning on the test split
    final: float  # on the test split
    role: str = "sample"

    def called(self, role: str) -> Sample:
        """The same sample in another role."""
        return replace(self, role=role)


@dataclass(frozen=True)
class Cells:
    """Runs points as ordinary cells of a storage, with everything else as the sweep has it."""

    sweep: Sweep
    trials: Sequence[Trial]  # one a seed, at the target
    storage: str
    run: Callable[..., SweepEnd]  # run_sweep with the user's options

    @property
    def kind(self) -> TargetKind:
        """What the target is of."""
        return self.trials[0].target

    def measured(self, points: Iterable[Point]) -> list[Sample]:
        """The samples of those points whose cells are ok; missing cells are run first.

        Raises:
            Interrupted: somebody typed Ctrl-C.
        """
        wanted = {point: [self._cell(trial, point) for trial in self.trials] for point in points}
        if wanted:
            end = self.run(self.sweep, self.storage, cells=[cell for cells in wanted.values() for cell in cells])
            if end.interrupted:
                raise Interrupted
        store = Store(open_storage(self.storage))
        found = []
        for point, cells in wanted.items():
            rows = [store.record(cell.trial_id) for cell in cells]
            if all(_why_not(row) is None for row in rows) and _costs(rows, self.kind):
                found.append(_sample(point, rows, self.kind))
        return found

    def why_not(self, point: Point) -> str:
        """Why a point is no sample."""
        store = Store(open_storage(self.storage))
        rows = [store.record(self._cell(trial, point).trial_id) for trial in self.trials]
        return next(filter(None, map(_why_not, rows)), None) or f"not timed: {rows[0]['timing_reason']}"

    def _cell(self, trial: Trial, point: Point) -> Trial:
        return trial.model_copy(update={"depth": point.depth, "image_size": point.size, "speedup": point.speedup})


def cells_of(sweep: Sweep, target: Amount, storage: str | None, run: Callable[..., SweepEnd] = run_sweep) -> Cells:
    """The cells of a sweep that names one dataset, model, method and strategy; its speed-ups don't count.

    Raises:
        UserError: it names several, or has a ratio in place of speed-ups, or its protocol doesn't know the target.
    """
    several = {
        "datasets": sweep.datasets, "models": sweep.models, "methods": sweep.methods, "strategies": sweep.strategies,
        "recipes": sweep.recipes, "protocols": sweep.protocols, "transfer": sweep.transfer,
    }  # fmt: skip
    for key, values in several.items():
        if len(values) > 1:
            names = ", ".join(str(getattr(value, "name", value)) for value in values)
            how = f"--{key[:-1]} chooses one" if key in CHOSEN else "leave one in the sweep"
            raise UserError(f"{key}: found {names}; a search takes one ({how})")
    if sweep.ratio is not None:
        raise UserError("ratio: a search asks for a cost; found a sweep with a ratio, which is a share of channels")
    entries = (*sweep.datasets, *sweep.models, *sweep.methods)
    alike = [entry.model_copy(update={"speedups": None, "targets": None}) for entry in entries]
    one: dict[str, Any] = {name: (entry,) for name, entry in zip(CHOSEN, alike, strict=True)}
    one |= {"speedups": (2.0,), "targets": None, "include": (), "exclude": (), "depths": (1.0,), "image_sizes": ()}
    asked = sweep.model_copy(update=one)
    trials = [trial.model_copy(update={"speedup": target.value, "target": target.kind}) for trial in resolve(asked)]
    if target.kind != "macs" and trials[0].protocol == "pruningbench":
        raise UserError(f"protocol: found pruningbench, which prunes to speed-ups in MACs, not to {target}")
    return Cells(asked, trials, storage or sweep.storage or f"results/{sweep.name}", run)


CHOSEN = ("datasets", "models", "methods")  # axes that an option narrows
COLUMNS: dict[TargetKind, tuple[str, str]] = {  # of the base network, and of the cell's
    "macs": ("macs_base", "macs"),
    "params": ("params_base", "params"),
    "latency_ms": ("latency_base_ms", "latency_ms"),
    "latency": ("latency_base_ms", "latency_ms"),
}


def narrowed(sweep: Sweep, names: dict[str, str | None]) -> Sweep:
    """The sweep with one entry of the axes in `names`.

    Raises:
        UserError: no entry, or several, have that name.
    """
    for axis, name in names.items():
        entries = getattr(sweep, axis)
        left = tuple(entry for entry in entries if name is None or entry.name == name)
        if len(left) != 1 and name is not None:
            known = dict.fromkeys(entry.name for entry in entries)
            found = f"{len(left)} entries of this name" if left else f"{name!r}"
            raise UserError(
                f"--{axis[:-1]}: found {found}, expected one of the sweep's {axis}.{nearest(name, known)} "
                f"It has: {', '.join(known)}"
            )
        sweep = sweep.model_copy(update={axis: left})
    return sweep


def _why_not(row: Row) -> str | None:
    """Why a cell has no result; None where it has one."""
    return None if row["status"] == "ok" else str(row["reason"] or f"{row['error_type']}: {row['error_message']}")


def _costs(rows: Sequence[Row], kind: TargetKind) -> list[tuple[float, float]]:
    """(Base, pruned) cost of each row; empty where one was not timed."""
    before, after = COLUMNS[kind]
    return [] if any(row[after] is None for row in rows) else [(row[before], row[after]) for row in rows]


def _sample(point: Point, rows: Sequence[Row], kind: TargetKind) -> Sample:
    values = [row["metric_final"] if row["metric_val"] is None else row["metric_val"] for row in rows]
    macs, speedup, final = (fmean(row[name] for row in rows) for name in ("macs", "speedup", "metric_final"))
    costs = _costs(rows, kind)
    share = fmean(after / before for before, after in costs)
    got = (
        fmean(after for _, after in costs) if kind == "latency_ms" else fmean(before / after for before, after in costs)
    )
    reason = next(filter(None, (row["reason"] for row in rows)), None)
    return Sample(point, rows[0]["trial_id"], macs, speedup, got, share, reason, fmean(values), final)
