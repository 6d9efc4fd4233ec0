"""What a network costs with some of its blocks and on smaller images, every channel kept: exact counts for a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.cost import count_macs
from raybench.pipeline import base, sparsify
from raybench.pipeline.context import StageContext
from raybench.pipeline.depth import blocks_of, check_size, influence_of
from raybench.pipeline.network import example_of
from raybench.selection.depth import least_influential, staying
from raybench.selection.shallow import without
from raybench.sweep.kinds import WHOLE, Place
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task


@dataclass(frozen=True)
class Uncut:
    """MACs of an image at each depth and image size, with all channels."""

    own: int  # side of the dataset's images
    macs: Mapping[Place, int]
    refused: tuple[str, ...] = ()  # why some sizes are not among them


def uncut_macs(
    trial: Trial, sizes: Sequence[int | None], depths: Sequence[float] | None, least: float, context: StageContext
) -> Uncut:
    """Count the network of `trial`, whose base is published, at every pair of the two.

    Args:
        trial: method, network and data.
        sizes: image sizes, the own one as None among them.
        depths: shares of the removable blocks; None: every number of blocks of at least the share `least`.
        least: see `depths`.
        context: where the base is.

    Raises:
        NotSupported: there is no removable block, and depths below 1 are asked for.
    """
    own, refused = 0, []
    macs: dict[Place, int] = {}
    for size in sizes:
        seen = trial.model_copy(update={"image_size": size, "depth": WHOLE})
        task = open_task(seen, context.data_roots, context.device, context.storage)
        start = sparsify.load(seen, context) or base.load(seen, context)
        model, example = base.start_of(start.folder, seen, task, context).eval(), example_of(task.data, context.device)
        own = max(example_of(task.data.own, context.device).shape[-2:])
        try:
            check_size(seen, model, example)
        except NotSupported as error:
            refused.append(str(error))
            continue
        macs |= {(depth, size): cost for depth, cost in _by_depth(seen, model, example, task, depths, least)}
    return Uncut(own, macs, tuple(refused))


def _by_depth(
    trial: Trial, model: nn.Module, example: Tensor, task: Task, depths: Sequence[float] | None, least: float
) -> list[tuple[float, int]]:
    """(depth, MACs), the whole network first."""
    found = [(WHOLE, count_macs(model, example))]
    if depths is not None and set(depths) <= {WHOLE}:
        return found
    blocks = blocks_of(trial.model_copy(update={"depth": min(depths or (0.5,))}), model, example)
    if depths is None:
        count = len(blocks)
        depths = [round(left / count, 4) for left in range(count - 1, max(1, math.ceil(least * count)) - 1, -1)]
    influence = influence_of(trial, model, blocks, task)
    for depth in depths:
        gone = least_influential(influence, len(blocks) - staying(depth, len(blocks)))
        if depth < WHOLE:
            found.append((depth, count_macs(without(model, [blocks[i] for i in gone]), example)))
    return found
