"""Early stopping: after some epochs of fine-tuning, a cell that is worse than others of its board ends.

The rule is ASHA's in its stopping form, which Ray Tune's ASHAScheduler has, too. Tune's class can't be used: a Tune
trial here is a process that runs one unit after another, also stages, and ``--local`` has no Tune. So values and
decisions lie in the storage, under ``rungs/``, where every driver and every worker finds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raybench.errors import NotSupported
from raybench.storage.base import Storage
from raybench.storage.json_text import is_number
from raybench.storage.sealed import create_object, read_sealed
from raybench.sweep.digests import digest
from raybench.sweep.trial import TRAINING, Trial
from raybench.tasks.protocol import Checkpoint

METHOD = ("importance", "regularizer", "schedule")  # what may differ between cells that are compared


def _is_bar(value: Any) -> bool:
    return value is None or is_number(value)


FIELDS = {"value": is_number, "bar": _is_bar}


@dataclass(frozen=True)
class Decision:
    """What was decided for a cell at a rung: `value` is its metric, `bar` the one it needed; None: too few cells."""

    value: float
    bar: float | None

    @property
    def stops(self) -> bool:
        """Whether the cell ends here."""
        return self.bar is not None and self.value < self.bar


class StoppedEarly(NotSupported):
    """A cell ended at a rung; its row has status `skipped`, with its curve so far and no final metric."""

    def __init__(self, epoch: int, epochs: int, decision: Decision, curve: Sequence[Mapping[str, float]]) -> None:
        self.epoch, self.decision, self.curve = epoch, decision, curve
        super().__init__(f"stopped at epoch {epoch} of {epochs} (early_stop)")


class Rungs:
    """A cell's checkpoint that compares it with others after each rung, and raises StoppedEarly (protocol Checkpoint).

    Args:
        inner: the checkpoint.
        storage: of the sweep.
        trial: the cell; its recipe has the block `early_stop`.
        metric: the task's metric; higher is better.
    """

    def __init__(self, inner: Checkpoint, storage: Storage, trial: Trial, metric: str) -> None:
        rule = trial.recipe.early_stop
        assert rule is not None
        self._inner, self._storage, self._trial, self._metric = inner, storage, trial, metric
        self._rungs, self._factor = rule.rungs(trial.tuning.epochs), rule.reduction_factor
        self._folder = f"rungs/{board_key(trial)}"

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state. A cell that was killed before its decision at this rung gets it now."""
        state = self._inner.load()
        if state is not None:
            self._check(state)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state, then decide if it stands at a rung."""
        self._inner.save(state)
        self._check(state)

    def _check(self, state: Mapping[str, Any]) -> None:
        epoch = state["epoch"]
        if epoch not in self._rungs:
            return
        value = max(entry[self._metric] for entry in state["curve"])  # of the epoch that would be kept now
        decision = self._decided(f"{self._folder}/{epoch}", value)
        if decision.stops:
            raise StoppedEarly(epoch, self._trial.tuning.epochs, decision, tuple(state["curve"]))

    def _decided(self, rung: str, value: float) -> Decision:
        """The decision at `rung`, which is taken once: a cell that runs again finds it."""
        own = f"{rung}/{self._trial.trial_id}.json"
        known = _read(self._storage, own)
        if known is not None:
            return known
        decision = Decision(value, bar(value, list(_others(self._storage, rung, own)), self._factor))
        create_object(self._storage, own, asdict(decision))
        return decision


def bar(value: float, others: Sequence[float], factor: int) -> float | None:
    """The metric that a cell needs to go on: that of the last one among the best 1/`factor` of all, itself included.

    Args:
        value: the cell's own metric.
        others: those of the cells that reached the rung before it.
        factor: one of so many goes on, rounded up.

    Returns:
        The bar; None while fewer than `factor` cells are there.

    Example:
        >>> bar(60.0, [70.0, 50.0], 3), bar(60.0, [70.0], 3), bar(60.0, [70.0, 50.0, 40.0], 3)
        (70.0, None, 60.0)
    """
    everyone = sorted([value, *others], reverse=True)
    return everyone[math.ceil(len(everyone) / factor) - 1] if len(everyone) >= factor else None


def board_key(trial: Trial) -> str:
    """Key of the cells that are compared: all but the method is equal, down to the seed, the base and the recipe."""
    own = {name: text for name, text in trial.id_fields.items() if name not in METHOD}
    return digest("board", TRAINING, own, trial.base_identity)


def _others(storage: Storage, rung: str, own: str) -> Iterator[float]:
    """The metrics of other cells at a rung."""
    for key in storage.list(rung):
        found = _read(storage, key) if key != own else None
        if found is not None:
            yield found.value


def _read(storage: Storage, key: str) -> Decision | None:
    """The decision under `key`; None if there is none, or after a damaged one was set aside."""
    content = read_sealed(storage, key, FIELDS, "decided again")
    return content and Decision(content["value"], content["bar"])
