"""Epochs of raybench's training with given options, and their times, for bench_training."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn
from torch.autograd import DeviceType

from raybench import registry
from raybench.datasets.data import Data, TensorImages
from raybench.datasets.facts import DataFacts, Split
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks.classification import Classification
from raybench.tasks.protocol import Training
from raybench.tasks.training import compiling

# steps before a GPU's are timed: kernels are chosen, the network is compiled, a graph is captured
WARM_STEPS = compiling.TIMED + 7
TIMED_EPOCHS = 3  # of a GPU, after those


class Nothing:
    """A checkpoint that is never written."""

    def load(self) -> None:
        return None

    def save(self, state: object) -> None:
        pass


class TrainingAlone(Classification):
    """A task whose epochs are passes over the training images and nothing else; it notes when each has ended."""

    ended: Callable[[], None] = staticmethod(lambda: None)

    def check(self, model: nn.Module) -> None:
        """Nothing: it takes a forward pass."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Figures of nothing."""
        self.ended()
        return {"top1": 0.0, "top5": 0.0, "loss": 0.0}


@dataclass
class Run:
    """A training, always the same again. Of one with `warm` epochs those after them are timed."""

    train: Callable[[], Training]
    task: TrainingAlone
    device: torch.device
    warm: int
    compiled: bool
    note: str = field(default="", init=False)

    def __call__(self) -> float | None:
        """Train; returns the median seconds of an epoch, None without warm epochs: the whole call is to be timed."""
        at: list[float] = []
        spans = self._spans(lambda: at.append(now(self.device)), at)
        return statistics.median(spans) if self.warm else None

    def busy_s(self) -> float | None:
        """Seconds of an epoch in which the GPU works, by torch's profiler; None where it saw no kernel."""
        at: list[float] = []
        profiled = torch.profiler.profile()

        def ended() -> None:
            at.append(now(self.device))
            if len(at) == self.warm:
                profiled.start()
            elif len(at) == self.warm + 1:
                profiled.stop()

        self._spans(ended, at)
        spans = [(one.time_range.start, one.time_range.end) for one in profiled.events()
                 if one.device_type != DeviceType.CPU and not getattr(one, "is_user_annotation", False)]  # fmt: skip
        return covered(spans) / 1e6 if spans else None

    def _spans(self, ended: Callable[[], None], at: list[float]) -> list[float]:
        """Train; the seconds of the epochs after the warm ones."""
        self.task.ended = ended
        with always_compiled() if self.compiled else nullcontext():
            self.note = str(self.train().computing.get("speed_note") or "")
        return [later - earlier for earlier, later in pairwise(at[max(self.warm - 1, 0) :])]


def covered(spans: list[tuple[float, float]]) -> float:
    """The length that intervals cover together: streams may work side by side."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def now(device: torch.device) -> float:
    """CPU seconds; with a GPU seconds of the clock, when it is idle."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def always_compiled() -> Iterator[None]:
    """Context in which `compile: auto` compiles at once, however little there is left to win."""
    before, compiling.WORTH = compiling.WORTH, 0.0
    try:
        yield
    finally:
        compiling.WORTH = before


class Epochs:
    """Makes callables that train a network's copy for its first epochs, always the same again."""

    def __init__(self, facts: DataFacts, images: TensorImages, recipe: TrainRecipe, device: torch.device) -> None:
        self.data = Data(facts, images, images, images, images, "")
        self.recipe, self.device = recipe, device

    def of(self, net: nn.Module, regularizer: str = "", ema: float | None = None, **speed: object) -> Run:
        """Training with a regularizer, a moving average, or options of `speed`: one epoch, on a GPU warm ones before.

        A regularizer drops its graph at the end of every epoch.
        """
        steps = -(-len(self.data.train) // self.recipe.batch_size)
        compiles = speed.get("compile") == "auto"
        warm = -(-WARM_STEPS // steps) if self.device.type == "cuda" or compiles else 0
        epochs = warm + TIMED_EPOCHS if warm else 1
        net, recipe = copy.deepcopy(net), self.recipe.model_copy(update={"ema": ema, "epochs": epochs})
        penalty = registry.regularizer.load(regularizer)(strength=1e-5) if regularizer else None
        if penalty is not None:
            from raybench.groups.trace import trace  # it needs torch-pruning

            penalty.bind(
                net, trace(net, torch.zeros(1, 3, 32, 32, device=self.device), classes=self.data.facts.classes)
            )
        more: Mapping[str, Speed] = {}
        if speed:
            more = {"speed": Speed(**speed).filled(self.device.type, "raybench")}
        task = TrainingAlone(self.data, self.device, **more)
        return Run(
            lambda: task.train(net, recipe, seed=0, checkpoint=Nothing(), regularizer=penalty, select="last"),
            task, self.device, warm, compiles,
        )  # fmt: skip
