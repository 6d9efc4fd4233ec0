"""What a task is: it owns loaders, loss, the training loop and evaluation for one kind of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

from raybench.errors import UserError
from raybench.methods.protocols import Calibration, Regularizer
from raybench.spec.trial import TrainRecipe

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class DataFacts:
    """What a model and a table need to know of a dataset. Pixel statistics are of images scaled to 0..1."""

    name: str
    task: str
    classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str


class Checkpoint(Protocol):
    """Where a long stage keeps its progress. Values are nested dicts of tensors, numbers and strings."""

    def load(self) -> Mapping[str, Any] | None:
        """The last complete state, None at the start."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep `state` atomically instead of the one before."""


@dataclass(frozen=True)
class Training:
    """What a training stage tells. The model was trained in place and holds the selected epoch's weights."""

    curve: tuple[Mapping[str, float], ...]  # one dict an epoch: epoch, lr, train_loss, <metric> on the selection split
    selected_epoch: int  # 1-based epoch whose weights were kept
    seconds_per_epoch: float  # mean over the epochs that this process ran
    resumed_from: int = 0  # epochs that a checkpoint already held


def check_calibration(data: DataFacts, asked: int, found: int) -> None:
    """UserError when scoring asks for more images than the training split of `data` has."""
    if asked > found:
        raise UserError(
            f"dataset {data.name!r}: the recipe asks for {asked} calibration images, the training split has {found}"
        )


class Task(Protocol):
    """One task bound to one dataset and device."""

    metric: str  # name of the metric that ranks: top1, mAP50-95; in percent
    data: DataFacts

    def check(self, model: nn.Module) -> None:
        """UserError when `model` is not one for this data, e.g. of other classes."""

    def check_recipe(self, stages: Sequence[TrainRecipe], calibration_images: int) -> None:
        """UserError when a stage asks for what this task doesn't have, or scoring for more images than there are."""

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
        """Train `model` in place. With `select="val"` the epoch best on the validation split stays (ties: lowest loss),
        "test" is the published protocol's best test epoch, "last" keeps the last (sparsifying)."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics in percent (`self.metric` among them) plus `loss`, in eval mode, whole split."""

    def calibration(self, images: int, batch_size: int, seed: int) -> Calibration:
        """`images` training images without augmentation, chosen by the seed; UserError when there are fewer."""
