"""Which blocks of a network go for an asked depth: those that change what runs through them least, on images.

Block influence (Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
arXiv 2403.03853): 1 - the mean cosine of what enters a block and what leaves it, at every position of every image. It
needs a forward pass, whatever criterion then ranks the channels, so that all criteria are compared at the same blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raybench.groups.attention import plainly
from raybench.groups.hooks import hooked
from raybench.groups.layer_types import CONVOLUTIONS
from raybench.methods.protocols import Calibration
from raybench.scoring.evidence import batches


def staying(depth: float, blocks: int) -> int:
    """How many of `blocks` stay at the share `depth`: rounded to the nearest, a half up."""
    return math.floor(depth * blocks + 0.5)


def least_influential(influence: Sequence[float], count: int) -> list[int]:
    """The indices of the `count` blocks of least influence, ascending; of equal ones the first go."""
    order = sorted(range(len(influence)), key=lambda block: influence[block])
    return sorted(order[:count])


def block_influence(model: nn.Module, blocks: Sequence[str], calibration: Calibration) -> list[float]:
    """1 - mean cosine between input and output of each of `blocks`, over all positions of all images.

    Args:
        model: the whole network, which isn't changed.
        blocks: qualified names of modules that return one tensor of the shape of their first input.
        calibration: the images.

    Returns:
        One number in [0, 2] for each block; 0 for one that returns a multiple of its input.
    """
    sums, counts = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0)
    entered: dict[str, Tensor] = {}

    def before(name: str, args: tuple[Tensor, ...]) -> None:
        entered[name] = args[0].clone()  # a block may add to its input in place

    def after(name: str, module: nn.Module, output: Tensor) -> None:
        source = entered.pop(name)
        cosines = _cosines(source, output, channel_axis(module, source))
        sums[name] += float(cosines.sum(dtype=torch.float64))
        counts[name] += cosines.numel()

    hooks = []
    for name in blocks:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda m, a, n=name: before(n, a)))
        hooks.append(module.register_forward_hook(lambda m, a, o, n=name: after(n, m, o)))
    with hooked(hooks), torch.no_grad(), plainly(model):
        for batch in batches(model, calibration):
            model(batch.images)
    return [1 - sums[name] / counts[name] for name in blocks]


def channel_axis(block: nn.Module, source: Tensor) -> int:
    """The axis of the channels of what a block reads: 1 if a convolution in it has so many inputs, else the last."""
    if source.dim() < 3:
        return -1
    convolutions = [module for module in block.modules() if isinstance(module, CONVOLUTIONS)]
    return 1 if any(conv.in_channels == source.shape[1] for conv in convolutions) else -1


def _cosines(source: Tensor, output: Tensor, axis: int) -> Tensor:
    """The cosine at every position; 1 where both are zero, 0 where one is."""
    source, output = source.movedim(axis, -1).flatten(0, -2).float(), output.movedim(axis, -1).flatten(0, -2).float()
    product, lengths = (source * output).sum(-1), source.norm(dim=-1) * output.norm(dim=-1)
    both = (source == 0).all(-1) & (output == 0).all(-1)
    return torch.where(both, torch.ones_like(product), product / lengths.clamp_min(torch.finfo(product.dtype).tiny))
