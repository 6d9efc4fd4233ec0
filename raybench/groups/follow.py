"""A second way to find the groups, for networks that torch-pruning's graph can't hold: labels followed forward.

Every channel of every layer gets a label. One forward pass carries the labels through each operation that torch
computes (`following`, `shape_rules`, `product_rules`); where channels meet, their labels become one. What an unknown
operation touches keeps its width. Trial cuts then show which widths are numbers in the code: what a class of modules
can't do with fewer channels stays whole, and the rest is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups import product_rules, shape_rules, surgery  # noqa: F401  # the rules register themselves
from raybench.groups.attention import plainly
from raybench.groups.first_run import FAILURES, raise_if_out_of_memory
from raybench.groups.flow import Misplaced, check_flow
from raybench.groups.following import Choices, Followed, modules_known
from raybench.groups.labelled import grouped, note_labels
from raybench.groups.labels import FIXED
from raybench.groups.layer_types import is_layer
from raybench.groups.members import Layers
from raybench.groups.records import Group, Groups
from raybench.groups.restored import buffers_restored
from raybench.groups.shell import copy_of_shapes, sharing_copy

MAX_SECONDS = 20.0
SLOWEST = 6  # times `max_seconds`, with the runs of the network
HowMany = Callable[[int, int, np.random.Generator], int]  # (size, least, random numbers) -> units that stay


@dataclass(frozen=True)
class Found:
    """The groups, and why layers stay whole."""

    groups: Groups
    whole: Mapping[str, str]  # layer -> the first reason
    choices: Choices  # with which they were found


def follow(
    model: nn.Module,
    example: Tensor,
    parts: Sequence[str],
    protected: frozenset[str] = frozenset(),
    max_seconds: float = MAX_SECONDS,
) -> Found:
    """Find the groups of `model` by following labels. The model isn't changed.

    Args:
        model: the network.
        example: one batch as the model takes it; one image is enough.
        parts: which parts of attention models may shrink.
        protected: qualified names of layers whose outputs keep their width.
        max_seconds: time limit of following, without what the network computes.

    Returns:
        The groups that are left when all trial cuts run, and the reasons for what stays whole.

    Raises:
        NotSupported: no group is left, or it takes too long.
    """
    started, left, choices = time.thread_time(), max_seconds, _choices(protected)
    trials, why = _Trials.of(model, example), ""
    while True:
        if time.thread_time() - started > SLOWEST * max_seconds:
            raise NotSupported(f"can't group {type(model).__name__}: trial cuts took too long; the last: {why}")
        followed = _followed(model, example, choices, time.thread_time() + left)
        left = followed.deadline - time.thread_time()
        groups, whole = grouped(model, followed, choices, parts)
        if not groups:
            reason = why or next(iter(whole.values()), "")
            raise NotSupported(
                f"{type(model).__name__} has no group of channels that can be pruned"
                + (f": {reason}" if reason else "")
            )
        failed = trials.failed(groups, followed, choices)
        if failed is not None:
            choices, why = failed
            continue
        try:
            _check(trials, groups)
        except Misplaced as error:
            choices, why = _misplaced(error, groups, choices), str(error)
            continue
        return Found(groups, whole, choices)


def candidates(
    model: nn.Module,
    example: Tensor,
    parts: Sequence[str],
    protected: frozenset[str] = frozenset(),
    max_seconds: float = MAX_SECONDS,
) -> Found:
    """As `follow`, but without trial cuts: groups whose widths may be numbers in the code are among them."""
    choices = _choices(protected)
    followed = _followed(model, example, choices, time.thread_time() + max_seconds)
    return Found(*grouped(model, followed, choices, parts), choices)


def _choices(protected: frozenset[str]) -> Choices:
    """The choices before any trial: `protected` layers keep their outputs."""
    return Choices(layers=frozenset((name, "out") for name in protected))


def _followed(model: nn.Module, example: Tensor, choices: Choices, deadline: float) -> Followed:
    followed = Followed(model, choices, deadline)
    for tensor in tensors_of(run_followed(followed, model, example)):
        for axis in followed.axes(tensor):
            followed.labels.pin(axis, "it makes the output")
    return followed


def run_followed(followed: Followed, model: nn.Module, example: Tensor) -> Any:
    """Run `model` once while `followed` follows its labels; returns the output. The model isn't changed."""
    with plainly(model), torch.no_grad(), buffers_restored(model), modules_known(model, followed.stack):
        image = example.clone()
        note_labels(followed, model)
        followed.note(image, [FIXED] * image.dim())
        with followed:
            return model(image)


def tensors_of(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from tensors_of(one)
    elif isinstance(output, (list, tuple)):
        for one in output:
            yield from tensors_of(one)
    elif hasattr(output, "__dict__"):
        yield from tensors_of(vars(output))


def half(size: int, least: int, rng: np.random.Generator) -> int:
    """Half of a group, or `least`."""
    return max(least, size // 2)


def some(size: int, least: int, rng: np.random.Generator) -> int:
    """Any number of units that may stay."""
    return int(rng.integers(least, size + 1))


def fewer(size: int, least: int, rng: np.random.Generator) -> int:
    """Any number of units below all."""
    return int(rng.integers(least, size))


@dataclass
class _Trials:
    """Runs cut copies of one network: of its shapes alone where that is enough."""

    model: nn.Module
    example: Tensor
    shapes_only: bool

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> _Trials:
        try:
            slim = copy_of_shapes(model)
            with torch.no_grad(), plainly(slim):
                slim(example[:1].to("meta"))
        except Exception:  # a forward pass that needs values may raise anything
            return cls(model, example, False)
        return cls(model, example, True)

    def shapes_of(self, net: nn.Module) -> dict[str, list[torch.Size]]:
        """The shape of each layer's outputs, call by call, in `net`: the network itself or a cut copy."""
        shell = copy_of_shapes(net) if self.shapes_only else net
        layers = Layers.of(shell)
        with torch.no_grad(), plainly(shell), layers.note_shapes():
            shell(self.example.to("meta") if self.shapes_only else self.example)
        return layers.shapes

    def failed(self, groups: Groups, followed: Followed, choices: Choices) -> tuple[Choices, str] | None:
        """None when all is well, else what to try next, and why."""
        rng = np.random.default_rng(0)
        for count in (half, some):
            slim = copy_of_shapes(self.model) if self.shapes_only else sharing_copy(self.model)
            surgery.apply(slim, groups, kept_units(groups, count, rng))
            stack = [("", type(slim).__name__)]
            try:
                with torch.no_grad(), plainly(slim), modules_known(slim, stack):
                    slim(self.example[:1].to("meta") if self.shapes_only else self.example)
            except FAILURES as error:
                raise_if_out_of_memory(error)
                return _next(choices, stack, followed, error, slim)
        return None


def kept_units(groups: Iterable[Group], count: HowMany, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Group name -> sorted units that a trial cut keeps: `count(size, least, rng)` of each group, drawn by `rng`."""
    return {g.name: np.sort(rng.permutation(g.size)[: count(g.size, g.least, rng)]) for g in groups}


def _check(trials: _Trials, groups: Groups) -> None:
    """Check with marked channels where they arrive, in the network and in a cut copy; `Misplaced` if elsewhere."""
    kept = kept_units(groups, half, np.random.default_rng(0))
    slim = sharing_copy(trials.model)
    surgery.apply(slim, groups, kept)
    for net, those in ((trials.model, groups), (slim, surgery.narrowed(groups, kept))):
        with torch.no_grad(), plainly(net):
            check_flow(net, trials.example, those, trials.shapes_of(net))


def _next(
    choices: Choices, stack: Sequence[tuple[str, str]], followed: Followed, error: Exception, model: nn.Module
) -> tuple[Choices, str]:
    """What to try after a failure in the innermost module of `stack`: another axis of its reshapes, or none at all.

    Layers that surgery cuts can't be wrong themselves: what calls them is.
    """
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    modules = dict(model.named_modules())
    above = [kind for name, kind in reversed(stack) if not is_layer(modules[name])]
    why = f"{above[0]} can't do with fewer channels ({message})"
    for kind in above:
        tried = choices.reshapes.get(kind, 0)
        if kind in followed.reshaped and tried < 2:
            return replace(choices, reshapes={**choices.reshapes, kind: tried + 1}), why
        if kind not in choices.whole:
            return replace(choices, whole=choices.whole | {kind}), why
    raise NotSupported(f"can't group {type(model).__name__}: {why}") from error


def _misplaced(error: Misplaced, groups: Groups, choices: Choices) -> Choices:
    """Keep the layers whose channels arrive elsewhere."""
    sides = {(m.layer, m.side) for g in groups if g.name in error.groups for m in g.members}
    sides = sides or {(error.layer, "in")}
    if sides <= choices.layers:
        raise error
    return replace(choices, layers=choices.layers | sides)
