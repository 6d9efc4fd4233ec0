"""Epochs of raybench's training with given options, for bench_training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from raybench import registry
from raybench.datasets.data import Data, TensorImages
from raybench.datasets.facts import DataFacts, Split
from raybench.groups.trace import trace
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.tasks.classification import Classification


class Nothing:
    """A checkpoint that is never written."""

    def load(self) -> None:
        return None

    def save(self, state: object) -> None:
        pass


class TrainingAlone(Classification):
    """A task whose epochs are passes over the training images and nothing else."""

    def check(self, model: nn.Module) -> None:
        """Nothing: it takes a forward pass."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Figures of nothing."""
        return {"top1": 0.0, "top5": 0.0, "loss": 0.0}


class Epochs:
    """Makes callables that train a network's copy for its first epochs, always the same again."""

    def __init__(self, facts: DataFacts, images: TensorImages, recipe: TrainRecipe, device: torch.device) -> None:
        self.data = Data(facts, images, images, images, images, "")
        self.recipe, self.device = recipe, device

    def can(self, speed: Mapping[str, object]) -> bool:
        """Whether this raybench has the options."""
        return not speed or "speed" in Recipe.model_fields

    def of(
        self, net: nn.Module, regularizer: str = "", ema: float | None = None, epochs: int = 1, **speed: object
    ) -> Callable[[], object]:
        """So many epochs with a regularizer, a moving average, or options of `speed`."""
        net, recipe = copy.deepcopy(net), self.recipe.model_copy(update={"ema": ema, "epochs": epochs})
        penalty = registry.regularizer.load(regularizer)(strength=1e-5) if regularizer else None
        if penalty is not None:
            penalty.bind(
                net, trace(net, torch.zeros(1, 3, 32, 32, device=self.device), classes=self.data.facts.classes)
            )
        more = {}
        if speed:
            from raybench.sweep.speed import Speed

            more["speed"] = Speed(**speed).filled(self.device.type, "raybench")
        task = TrainingAlone(self.data, self.device, **more)
        return lambda: task.train(net, recipe, seed=0, checkpoint=Nothing(), regularizer=penalty, select="last")
