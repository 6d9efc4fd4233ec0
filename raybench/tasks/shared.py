"""A task whose training and evaluation several processes share: the first calls it, the others take part.

The first process runs the whole pipeline. When that trains or evaluates, the network is sent to the others, which do
the same on their shares of the images. What else there is (scoring, selection, cut, files, rows) it does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from raybench.datasets.facts import DataFacts, Split
from raybench.methods.protocols import Calibration, Regularizer
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.protocol import Checkpoint, Task, Training
from raybench.tasks.training.team import Peers

LEFT = "left"  # the first process's word in place of a checkpoint's: training ends here


class LeaderLeft(Exception):
    """The first process has left a training stage between two epochs, e.g. because it was stopped early."""


@dataclass(frozen=True)
class _Train:
    """One call of `Task.train`. In one object, so that what network and regularizer share stays shared."""

    model: nn.Module
    recipe: TrainRecipe
    seed: int
    regularizer: Regularizer | None
    teacher: nn.Module | None
    select: Literal["val", "test", "last"]

    def run(self, task: Task, checkpoint: Checkpoint) -> Training:
        return task.train(
            self.model, self.recipe, seed=self.seed, checkpoint=checkpoint, regularizer=self.regularizer,
            teacher=self.teacher, select=self.select,
        )  # fmt: skip


@dataclass(frozen=True)
class _Evaluate:
    """One call of `Task.evaluate`."""

    model: nn.Module
    split: Split


class SharedTask:
    """The task of the first process (the Task protocol)."""

    def __init__(self, task: Task, team: Peers) -> None:
        self._task, self._team = task, team
        self.metric, self.data = task.metric, task.data

    metric: str
    data: DataFacts

    @property
    def training_images(self) -> int:
        """How many images an epoch has."""
        return self._task.training_images

    def check(self, model: nn.Module) -> None:
        """See `Task.check`."""
        self._task.check(model)

    def check_recipe(self, stages: Sequence[TrainRecipe], calibration_images: int) -> None:
        """See `Task.check_recipe`."""
        self._task.check_recipe(stages, calibration_images)

    def train(
        self,
        model: nn.Module,
        recipe: TrainRecipe,
        *,
        seed: int,
        checkpoint: Checkpoint,
        regularizer: Regularizer | None = None,
        teacher: nn.Module | None = None,
        select: Literal["val", "test", "last"] = "val",
    ) -> Training:
        """Train `model` together; see `Task.train`. This process alone reads and writes the checkpoint."""
        call = _Train(model, recipe, seed, regularizer, teacher, select)
        with self._together(call):
            return call.run(self._task, _Announced(checkpoint, self._team))

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Evaluate `model` together; see `Task.evaluate`."""
        with self._together(_Evaluate(model, split)):
            return self._task.evaluate(model, split)

    def calibration(self, images: int, batch_size: int, seed: int) -> Calibration:
        """See `Task.calibration`."""
        return self._task.calibration(images, batch_size, seed)

    @contextmanager
    def _together(self, call: _Train | _Evaluate) -> Iterator[None]:
        """Context in which all processes make `call`. After an error in it they are no longer at the same place."""
        self._team.say(call)
        self._team.whole = False
        yield
        self._team.whole = True


class _Announced:
    """The first process's checkpoint, which tells the others what it read, and whether training goes on."""

    def __init__(self, inner: Checkpoint, team: Peers) -> None:
        self._inner, self._team = inner, team

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state."""
        return self._passed_on(self._inner.load)

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state."""
        self._passed_on(lambda: self._inner.save(state))

    def _passed_on(self, action: Callable[[], Any]) -> Any:
        try:
            found = action()
        except Exception:  # the cell is stopped early, or its lease is lost
            self._team.say(LEFT)
            self._team.whole = True
            raise
        self._team.say(found)
        return found


class _Heard:
    """The checkpoint of the other processes: what the first one read."""

    def __init__(self, team: Peers) -> None:
        self._team = team

    def load(self) -> Mapping[str, Any] | None:
        """The state that the first process has read. Raises LeaderLeft."""
        found: Mapping[str, Any] | None = self._next()
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        """Wait until the first process has saved. Raises LeaderLeft."""
        self._next()

    def _next(self) -> Any:
        if (word := self._team.hear()) == LEFT:
            raise LeaderLeft
        return word


def take_part(open_own: Callable[[], Task], team: Peers) -> None:
    """Make every call that the first process makes, until it says None.

    Args:
        open_own: opens this process's task; called where there is something to do.
        team: the processes.
    """
    task: Task | None = None
    while (call := team.hear()) is not None:
        task = task or open_own()
        if isinstance(call, _Evaluate):
            task.evaluate(call.model, call.split)
            continue
        with suppress(LeaderLeft):
            call.run(task, _Heard(team))
