"""The Task protocol: data loading, loss, training and evaluation for one kind of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import nn

from raybench.datasets.facts import DataFacts, Split
from raybench.errors import UserError
from raybench.methods.protocols import Calibration, Regularizer
from raybench.sweep.recipe import TrainRecipe


class Checkpoint(Protocol):
    """Saved progress of a training stage, as nested dicts of tensors, numbers and strings."""

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state, None if there is none."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state by `state`, atomically."""


@dataclass(frozen=True)
class Training:
    """Result of a training stage. The model was trained in place and has the selected epoch's weights."""

    curve: tuple[Mapping[str, float], ...]  # for each epoch: epoch, lr, train_loss, <metric> on the selection split
    selected_epoch: int  # from 1: the epoch whose weights were kept
    seconds_per_epoch: float  # mean over the epochs that this process ran
    resumed_from: int = 0  # epochs done before, from a checkpoint
    computing: Mapping[str, Any] = field(default_factory=dict)  # the row's columns on precision, memory format, ...


def check_calibration(data: DataFacts, wanted: int, found: int) -> None:
    """UserError when more calibration images are set than the training split of `data` has."""
    if wanted > found:
        raise UserError(
            f"dataset {data.name!r}: the recipe sets {wanted} calibration images, the training split has {found}; "
            f"set `calibration_images: {found}` or less (recalibration_images, too) at the recipe's top level, "
            f"or for raybench prune --calibration-images {found}"
        )


class Task(Protocol):
    """One task bound to one dataset and device."""

    metric: str  # the main metric, in percent: top1, mAP50-95
    data: DataFacts

    @property
    def training_images(self) -> int:
        """How many images an epoch has."""

    def check(self, model: nn.Module) -> None:
        """UserError when `model` doesn't fit the data, e.g. has another number of classes."""

    def check_recipe(self, stages: Sequence[TrainRecipe], calibration_images: int) -> None:
        """UserError for a setting that the task doesn't support, or more calibration images than training images."""

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
        """Train `model` in place and keep the weights of one epoch.

        `select`: "val" keeps the best epoch on the validation split (ties: lowest loss), "test" the best on the test
        split (every stage of protocol pruningbench), "last" the last one (sparsifying).
        """

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics in percent (`self.metric` among them) plus `loss`, in eval mode, whole split."""

    def calibration(self, images: int, batch_size: int, seed: int) -> Calibration:
        """`images` training images without augmentation, chosen by the seed; UserError when there are fewer."""
