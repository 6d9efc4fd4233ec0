"""What a network costs with some of its blocks and on smaller images, every channel kept: the places of a search."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported, counted
from raybench.groups import surgery
from raybench.groups.cost import Cost, count_macs, params_of
from raybench.pipeline import base, sparsify
from raybench.pipeline.asked import timing_of
from raybench.pipeline.context import StageContext
from raybench.pipeline.depth import blocks_of, check_size, influence_of
from raybench.pipeline.measure import Pace, medians_ms
from raybench.pipeline.network import example_of, fresh_model, groups_of
from raybench.selection.depth import least_influential, staying
from raybench.selection.problem import Problem
from raybench.selection.shallow import without
from raybench.sweep.kinds import WHOLE, Place
from raybench.sweep.target import TIMED, TargetKind
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

SHORT = Pace(3, 15, block=3, most_s=3.0)  # of each place: there are up to a hundred


@dataclass(frozen=True)
class Uncut:
    """MACs and cost of an image at each depth and image size, with all channels."""

    own: int  # side of the dataset's images
    macs: Mapping[Place, int]
    costs: Mapping[Place, float]  # of what the target is of; milliseconds are scaled to one timing of the whole network
    refused: tuple[str, ...] = ()  # why some sizes are not among them


@dataclass(frozen=True)
class Smallest:
    """The cheapest network that the dimensions of a search allow, beside the whole one."""

    whole: float
    cost: float
    words: str  # what is left of it


def uncut_costs(
    trial: Trial, sizes: Sequence[int | None], depths: Sequence[float] | None, least: float, context: StageContext
) -> Uncut:
    """Measure the network of `trial`, whose base is published, at every pair of the two.

    Args:
        trial: method, network, data, and what its target is of.
        sizes: image sizes, the own one first, as None.
        depths: shares of the removable blocks; None: every number of blocks of at least the share `least`.
        least: see `depths`.
        context: where the base is.

    Raises:
        NotSupported: there is no removable block, and depths below 1 are asked for.
        StageError: times are wanted, and the machine could not be had alone.
    """
    refused: list[str] = []
    macs: dict[Place, int] = {}
    costs: dict[Place, float] = {}
    whole: tuple[nn.Module, Tensor] | None = None
    with context.machine.computing():
        for size in sizes:
            seen = trial.model_copy(update={"image_size": size, "depth": WHOLE})
            task = open_task(seen, context.data_roots, context.device, context.storage)
            start = sparsify.load(seen, context) or base.load(seen, context)
            model, example = (
                base.start_of(start.folder, seen, task, context).eval(),
                example_of(task.data, context.device),
            )
            whole = whole or (model, example)
            try:
                check_size(seen, model, example)
            except NotSupported as error:
                refused.append(str(error))
                continue
            nets = dict(_by_depth(seen, model, example, task, depths, least))
            macs |= {(depth, size): count_macs(net, example) for depth, net in nets.items()}
            first, *others = COST[trial.target]([whole[0], *nets.values()], [whole[1], *[example] * len(nets)], context)
            scale = costs[WHOLE, None] / first if costs else 1.0
            costs |= {(depth, size): scale * cost for depth, cost in zip(nets, others, strict=True)}
    assert whole is not None  # the own size is always among them
    return Uncut(max(whole[1].shape[-2:]), macs, costs, tuple(refused))


def smallest(
    trial: Trial,
    sizes: Sequence[int | None],
    depths: Sequence[float] | None,
    least: float,
    width: bool,
    context: StageContext,
) -> Smallest:
    """Measure the cheapest network, with new weights: no training is needed to know that a target is out of reach.

    It has the fewest blocks (the costliest go), the smallest image size that it takes and, with `width`, the fewest
    channels that the strategy leaves. What the search can reach is at most this.

    Args:
        trial: method, network, data, and what its target is of.
        sizes: image sizes, the own one first, as None.
        depths: shares of the removable blocks; None: every number of blocks of at least the share `least`.
        least: see `depths`.
        width: whether channels go.
        context: where data are.

    Raises:
        NotSupported: there is no removable block, and depths below 1 are asked for.
    """
    own = trial.model_copy(update={"image_size": None, "depth": WHOLE})
    task = open_task(own, context.data_roots, context.device, context.storage)
    whole, image = fresh_model(own, task, context.device).eval(), example_of(task.data, context.device)
    model, example = copy.deepcopy(whole), image
    words: list[str] = []
    for size in sorted(size for size in sizes if size is not None and size < image.shape[-1]):
        seen = own.model_copy(update={"image_size": size})
        smaller = open_task(seen, context.data_roots, context.device, context.storage)
        net = fresh_model(seen, smaller, context.device).eval()
        try:
            check_size(seen, net, example_of(smaller.data, context.device))
        except NotSupported:
            continue
        own, task, model, example = seen, smaller, net, example_of(smaller.data, context.device)
        words.append(f"images of {size} pixels")
        break
    if depths is None or min(depths) < WHOLE:
        blocks = blocks_of(own.model_copy(update={"depth": min(depths or (0.5,))}), model, example)
        left = _fewest(len(blocks), least) if depths is None else staying(min(depths), len(blocks))
        model = _shallowest(own, model, example, blocks, left, context)
        words.append(f"{left} of {counted(len(blocks), 'removable block')}")
    if width:
        model = _narrowest(own, model, example, task)
        words.append("the fewest channels that its strategy leaves")
    with context.machine.computing():
        before, after = COST[trial.target]([whole, model], [image, example], context)
    return Smallest(before, after, ", ".join(words))


def _fewest(blocks: int, least: float) -> int:
    """How many of `blocks` stay at least."""
    return max(1, math.ceil(least * blocks))


def _shallowest(
    trial: Trial, model: nn.Module, example: Tensor, blocks: Sequence[str], left: int, context: StageContext
) -> nn.Module:
    """The network with `left` of its removable `blocks`, without the costliest: by MACs where the target is a time."""
    nets = [without(model, [block]) for block in blocks]
    costs = COST["macs" if trial.target in TIMED else trial.target](nets, [example] * len(nets), context)
    gone = sorted(range(len(blocks)), key=costs.__getitem__)[: len(blocks) - left]
    return without(model, [blocks[i] for i in gone])


def _narrowest(trial: Trial, model: nn.Module, example: Tensor, task: Task) -> nn.Module:
    """The network with as few channels in each group as its strategy leaves at least."""
    groups = groups_of(model, trial, task)
    problem = Problem.of(groups, Cost.measure(model, example, groups), trial.strategy, trial.round_to)
    kept = {group.name: np.arange(n) for group, n in zip(groups, problem.rounded(problem.floors), strict=True)}
    surgery.apply(model, groups, kept)
    return model


def _by_depth(
    trial: Trial, model: nn.Module, example: Tensor, task: Task, depths: Sequence[float] | None, least: float
) -> Iterable[tuple[float, nn.Module]]:
    """(depth, network), the whole one first."""
    yield WHOLE, model
    if depths is not None and set(depths) <= {WHOLE}:
        return
    blocks = blocks_of(trial.model_copy(update={"depth": min(depths or (0.5,))}), model, example)
    if depths is None:
        count = len(blocks)
        depths = [round(left / count, 4) for left in range(count - 1, _fewest(count, least) - 1, -1)]
    influence = influence_of(trial, model, blocks, task)
    for depth in depths:
        gone = least_influential(influence, len(blocks) - staying(depth, len(blocks)))
        if depth < WHOLE:
            yield depth, without(model, [blocks[i] for i in gone])


def _times(nets: Sequence[nn.Module], images: Sequence[Tensor], context: StageContext) -> list[float]:
    """Milliseconds of an image, timed in turns with the machine alone."""
    return timing_of(*context.machine.timed(lambda: medians_ms([net.eval() for net in nets], images, SHORT)))


COST: dict[TargetKind, Callable[[Sequence[nn.Module], Sequence[Tensor], StageContext], list[float]]] = {
    "macs": lambda nets, images, context: [float(count_macs(*one)) for one in zip(nets, images, strict=True)],
    "params": lambda nets, images, context: [float(params_of(net)) for net in nets],
    "latency_ms": _times,
    "latency": _times,
}
