"""Epochs of raybench's training with given options, and their times, for bench_training."""

from __future__ import annotations

import copy
import math
import statistics
import threading
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
SAMPLED_S, SAMPLE_S, PAST_S = (
    4.0,
    0.1,
    1.0,
)  # of training whose utilization is sampled; a sample; what one may look back


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

    train: Callable[[int], Training]  # for so many epochs
    task: TrainingAlone
    device: torch.device
    warm: int
    compiled: bool
    epochs: int  # with the warm ones
    note: str = field(default="", init=False)

    def __call__(self) -> float | None:
        """Train; returns the median seconds of an epoch, None without warm epochs: the whole call is to be timed."""
        at: list[float] = []
        self._run(lambda: at.append(now(self.device)), self.epochs)
        spans = [later - earlier for earlier, later in pairwise(at[max(self.warm - 1, 0) :])]
        return statistics.median(spans) if self.warm else None

    def busy_s(self) -> float | None:
        """Seconds of an epoch in which the GPU works, by torch's profiler; None where it saw no kernel.

        Without an empty session before the first graph is captured: with CUDA 13.0 nothing is seen after one.
        """
        ended, profiled = 0, torch.profiler.profile()

        def end() -> None:
            nonlocal ended
            now(self.device)
            ended += 1
            if ended == self.warm:
                profiled.start()
            elif ended == self.warm + 1:
                profiled.stop()

        self._run(end, self.warm + 1)
        spans = [(one.time_range.start, one.time_range.end) for one in profiled.events()
                 if one.device_type != DeviceType.CPU and not getattr(one, "is_user_annotation", False)]  # fmt: skip
        return covered(spans) / 1e6 if spans else None

    def utilization(self, epoch_s: float) -> float | None:
        """Share of the time in which a kernel runs, by the driver's samples; None without NVML's module.

        `epoch_s`: seconds of an epoch. The driver's figure is of up to a second past, so that the first doesn't count.
        """
        try:
            torch.cuda.utilization(self.device)
        except Exception:  # without nvidia-ml-py, or without a driver that answers
            return None
        samples, over, ended = list[int](), threading.Event(), 0

        def watch() -> None:
            while not over.wait(SAMPLE_S):
                samples.append(torch.cuda.utilization(self.device))

        watching = threading.Thread(target=watch, daemon=True)

        def end() -> None:
            nonlocal ended
            ended += 1
            if ended == self.warm:
                watching.start()

        self._run(end, self.warm + max(1, math.ceil(SAMPLED_S / epoch_s)))
        over.set()
        watching.join()
        steady = samples[math.ceil(PAST_S / SAMPLE_S) :]
        return statistics.mean(steady) / 100 if steady else None

    def _run(self, ended: Callable[[], None], epochs: int) -> None:
        """Train, and call `ended` after each epoch."""
        self.task.ended = ended
        with always_compiled() if self.compiled else nullcontext():
            self.note = str(self.train(epochs).computing.get("speed_note") or "")


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
        net, recipe = copy.deepcopy(net), self.recipe.model_copy(update={"ema": ema})
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

        def train(count: int) -> Training:
            of_so_many = recipe.model_copy(update={"epochs": count})
            return task.train(net, of_so_many, seed=0, checkpoint=Nothing(), regularizer=penalty, select="last")

        return Run(train, task, self.device, warm, compiles, epochs)
