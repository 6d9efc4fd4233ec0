"""Steps of a classifier's training: forward, backward, optimizer, average; plain, compiled, or one CUDA graph.

A graph holds a whole step, with the regularizer and the average inside: a small network's step is mostly the launches
of its kernels, and a graph is launched once. No graph was ever captured on a GPU by the tests of a machine without one;
`make gpu` compares both ways.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench.error_text import first_line
from raybench.methods.trained_selection import TrainedSelection
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.compiling import Compiling
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.loss import own_loss, training_loss
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.team import ALONE, Team

BEFORE_CAPTURE = 3  # plain steps on batches of a shape before its graph is captured: kernels are chosen, state made
failed_captures: list[str] = []  # in this process: why; torch keeps their memory pools open
WAITS = "synchronizing CUDA operation"  # in torch's warning of what makes the host wait for the device


def take_step(
    progress: TrainingState, recipe: TrainRecipe, loss: Tensor, team: Team = ALONE, part: float = 1.0
) -> None:
    """One optimizer step on `loss` and the regularizer's penalty; updates the moving average, too.

    `loss` is the mean over the `part` of the batch that this process of the `team` has.
    """
    progress.optimizer.zero_grad()
    team.backward(progress.model, loss, part)
    _update(progress, recipe)


def _update(progress: TrainingState, recipe: TrainRecipe) -> None:
    """The part of a step that follows the backward pass."""
    if progress.regularizer is not None:
        progress.regularizer.add_gradients()
    if recipe.clip_grad:
        torch.nn.utils.clip_grad_norm_(progress.model.parameters(), recipe.clip_grad)
    progress.optimizer.step()
    if progress.average is not None:
        progress.average.update()


class Stepper:
    """Takes the steps of one training stage; as `computing` describes; it is changed where something falls back."""

    def __init__(
        self,
        recipe: TrainRecipe,
        computing: Computing,
        device: torch.device,
        teacher: nn.Module | None,
        steps: int,
        team: Team = ALONE,
    ) -> None:
        self.recipe, self.computing, self.device, self.teacher, self.team = recipe, computing, device, teacher, team
        self._compiling = Compiling(steps) if computing.compile == "auto" else None
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._seen: dict[tuple[int, ...], int] = {}
        self._rehearsed: set[tuple[int, ...]] = set()
        self._side: Any = None  # the stream of what a graph holds, and of the steps before it
        self._captured = False

    def __call__(self, progress: TrainingState, mixed: Mixed) -> Tensor:
        """One step on a batch; returns the mean loss, detached, without waiting for it."""
        if self.computing.graphs == "auto":
            self.computing = _allowed(self.computing, progress)
        if self.computing.graphs == "off":
            return self._plain(progress, mixed)
        return self._graphed(progress, mixed)

    def end_epoch(self, progress: TrainingState) -> None:
        """Drop captured graphs that hold a regularizer: it may change at the end of the epoch."""
        if progress.regularizer is not None:
            self._graphs.clear()

    def close(self) -> Computing:
        """How the stage has computed; ends compilation's caches."""
        self._graphs.clear()
        if self._compiling is not None:
            self.computing = self._compiling.close(self.computing)
        if self.computing.graphs != "off" and not self._captured:
            self.computing = self.computing.noting("no graphs: too few steps", graphs="off")
        return self.computing

    def _plain(self, progress: TrainingState, mixed: Mixed) -> Tensor:
        def passes(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            """Forward and backward; gives outputs and loss."""
            with self.computing.autocast(self.device):
                outputs = forward(mixed.images)
                loss = training_loss(outputs, mixed, self.recipe, self.teacher)
                loss = loss + own_loss(progress.model, outputs, mixed.images, self.teacher)
            progress.optimizer.zero_grad()
            self.team.backward(progress.model, loss, mixed.part)
            return outputs.detach(), loss.detach()

        compiling = self._compiling
        outputs, loss = passes(progress.model) if compiling is None else compiling.run(progress.model, passes)
        if isinstance(progress.regularizer, TrainedSelection):
            progress.regularizer.observe(outputs, mixed.labels)
        _update(progress, self.recipe)
        return loss

    def _graphed(self, progress: TrainingState, mixed: Mixed) -> Tensor:
        shape = tuple(mixed.images.shape)
        if shape in self._graphs:
            return self._graphs[shape].replay(mixed)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        if self._seen[shape] < BEFORE_CAPTURE or (self._compiling is not None and not self._compiling.settled):
            return self._beside(progress, mixed)
        if shape not in self._rehearsed:
            self._rehearsed.add(shape)
            return self._rehearsal(progress, mixed)
        # a graph holds the memory of its step; with progressive resizing smaller images don't come back
        self._graphs = {other: graph for other, graph in self._graphs.items() if other[1:] == shape[1:]}
        try:
            self._graphs[shape] = _Graph(self._plain, progress, mixed, self._side)
        except Exception as error:  # a network may do what no graph can hold
            why = first_line(_first(error))
            failed_captures.append(why)
            self.computing = self.computing.noting(f"no graphs: {why}", graphs="off")
            return self._plain(progress, mixed)
        self._captured = True
        return self._graphs[shape].replay(mixed)

    def _beside(self, progress: TrainingState, mixed: Mixed) -> Tensor:
        """A plain step on a stream of its own, as capture demands of the steps before it."""
        if self._side is None:  # one for all, as each stream keeps memory and workspaces of its own
            self._side = torch.cuda.Stream()
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            loss = self._plain(progress, mixed)
        main.wait_stream(self._side)
        return loss

    def _rehearsal(self, progress: TrainingState, mixed: Mixed) -> Tensor:
        """A plain step in which torch tells what waits for the device; then there are no graphs.

        No graph can hold that, and an attempt spoils more than itself: torch keeps the capture's memory pool open. As
        in a graph, learning rates and the share of a mixture are tensors: whoever asks for their values is found out,
        and CUDA has loaded the kernels that read them.
        """
        inputs = _Inputs(progress.optimizer, mixed)
        inputs.fill(mixed)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with inputs.as_rates():
                    loss = self._beside(progress, inputs.batch)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        waits = [one for one in caught if WAITS in str(one.message)]
        for one in caught:
            if one not in waits:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if waits:
            where = f"{Path(waits[0].filename).name}:{waits[0].lineno}"
            self.computing = self.computing.noting(f"no graphs: a step waits for the device ({where})", graphs="off")
        return loss


def _allowed(computing: Computing, progress: TrainingState) -> Computing:
    """`computing` with graphs on, or off where the regularizer may do on the host what a graph would not repeat."""
    penalty = progress.regularizer
    if penalty is not None and not penalty.capturable:
        return computing.noting(f"no graphs: {type(penalty).__name__} is not capturable", graphs="off")
    return dataclasses.replace(computing, graphs="on")


def _first(error: BaseException) -> BaseException:
    """The error that came first: where a capture fails, its end fails, too."""
    return error if error.__context__ is None else _first(error.__context__)


class _Inputs:
    """What a captured step reads: a batch of one shape and the learning rates, as tensors that are filled."""

    def __init__(self, optimizer: torch.optim.Optimizer, mixed: Mixed) -> None:
        device = mixed.images.device
        self._groups = optimizer.param_groups
        self._rates = [torch.zeros((), device=device) for _ in self._groups]
        self._share = torch.ones((), device=device)
        self.batch = Mixed(mixed.images.clone(), mixed.labels.clone(), mixed.others.clone(), self._share)

    def fill(self, mixed: Mixed) -> None:
        """Take over a batch and the present learning rates, without waiting for the device."""
        self.batch.images.copy_(mixed.images)
        self.batch.labels.copy_(mixed.labels)
        self.batch.others.copy_(mixed.others)
        self._share.fill_(mixed.share)
        for group, rate in zip(self._groups, self._rates, strict=True):
            rate.fill_(group["lr"])

    @contextmanager
    def as_rates(self) -> Iterator[None]:
        """Context in which the optimizer's learning rates are the tensors."""
        floats = [group["lr"] for group in self._groups]
        try:
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = rate
            yield
        finally:
            for group, value in zip(self._groups, floats, strict=True):
                group["lr"] = value


class _Graph:
    """One captured step for batches of one shape."""

    def __init__(
        self, step: Callable[[TrainingState, Mixed], Tensor], progress: TrainingState, mixed: Mixed, stream: Any
    ) -> None:
        self._inputs, self._graph = _Inputs(progress.optimizer, mixed), torch.cuda.CUDAGraph()
        progress.optimizer.zero_grad()
        numbers = torch.cuda.default_generators[mixed.images.device.index or 0]
        before = numbers.clone_state()
        try:
            # other threads may load data; after an error torch leaves the stream and the generator in the capture
            with (
                self._inputs.as_rates(),
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._loss = step(progress, self._inputs.batch)
        except BaseException:
            numbers.graphsafe_set_state(before)
            raise

    def replay(self, mixed: Mixed) -> Tensor:
        """Take the step on a batch."""
        self._inputs.fill(mixed)
        self._graph.replay()
        return self._loss.clone()
