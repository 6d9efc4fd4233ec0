"""The cells of a search: those of one method on one network and dataset, run where missing, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from raybench.sweep.trial import Trial


class Interrupted(Exception):
    """Ctrl-C ended a run; the same search continues."""


@dataclass(frozen=True)
class Sample:
    """A point and what was measured there, the mean over seeds."""

    point: Point
    trial_id: str  # of the first seed
    macs: float
    speedup: float
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
    trials: Sequence[Trial]  # one a seed, for the target speed-up
    storage: str
    run: Callable[..., SweepEnd]  # run_sweep with the user's options

    def measured(self, points: Iterable[Point]) -> list[Sample]:
        """The samples of those points whose cells are ok; missing cells are run first.

        Raises:
            Interrupted: ctrl-C came.
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
            if all(row["status"] == "ok" for row in rows):
                found.append(_sample(point, rows))
        return found

    def why_not(self, point: Point) -> str:
        """What the row of a point's first cell says."""
        row = Store(open_storage(self.storage)).record(self._cell(self.trials[0], point).trial_id)
        return str(row["reason"] or f"{row['error_type']}: {row['error_message']}")

    @staticmethod
    def _cell(trial: Trial, point: Point) -> Trial:
        return trial.model_copy(
            update={"depth": point.depth, "image_size": point.size, "speedup": point.speedup, "target": "macs"}
        )


def cells_of(sweep: Sweep, target: float, storage: str | None, run: Callable[..., SweepEnd] = run_sweep) -> Cells:
    """The cells of a sweep that names one dataset, model, method and strategy; its speed-ups don't count.

    Raises:
        UserError: it names several, or has a ratio in place of speed-ups.
    """
    several = {
        "datasets": sweep.datasets, "models": sweep.models, "methods": sweep.methods, "strategies": sweep.strategies,
        "recipes": sweep.recipes, "protocols": sweep.protocols, "transfer": sweep.transfer,
    }  # fmt: skip
    for key, values in several.items():
        if len(values) > 1:
            names = ", ".join(str(getattr(value, "name", value)) for value in values)
            option = f" (--{key[:-1]} chooses one)" if key in CHOSEN else ""
            raise UserError(f"{key}: found {names}; a search takes one{option}")
    if sweep.ratio is not None:
        raise UserError("ratio: a search asks for speed-ups; found a sweep with a ratio in place of them")
    entries = (*sweep.datasets, *sweep.models, *sweep.methods)
    alike = [entry.model_copy(update={"speedups": None, "targets": None}) for entry in entries]
    one: dict[str, Any] = {name: (entry,) for name, entry in zip(CHOSEN, alike, strict=True)}
    one |= {"speedups": (target,), "targets": None, "include": (), "exclude": (), "depths": (1.0,), "image_sizes": ()}
    asked = sweep.model_copy(update=one)
    return Cells(asked, resolve(asked), storage or sweep.storage or f"results/{sweep.name}", run)


CHOSEN = ("datasets", "models", "methods")  # axes that an option narrows


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


def _sample(point: Point, rows: Sequence[Any]) -> Sample:
    values = [row["metric_final"] if row["metric_val"] is None else row["metric_val"] for row in rows]
    macs, got, final = (fmean(row[name] for row in rows) for name in ("macs", "speedup", "metric_final"))
    return Sample(point, rows[0]["trial_id"], macs, got, fmean(values), final)
