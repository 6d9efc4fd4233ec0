"""After the cut: what reads pruned channels is refitted to what it gave before, by criteria whose papers do so.

The uncut network's outputs are taken at sampled points; then one pass through the pruned network refits each layer
right before it runs, so that it sees what the layers before it, refitted already, give it (He et al., ICCV 2017,
eq. 5: reconstruct the original output from the current input).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.methods.contributions import sample_patches
from raybench.methods.evidence import batches, evaluating, finite_outputs
from raybench.methods.layers import arrangement, view
from raybench.methods.protocols import Calibration, Importance, Reading
from raybench.pipeline import surgery
from raybench.pipeline.attention import attentions
from raybench.pipeline.records import Groups, Member
from raybench.pipeline.widths import sides_of

MOST_VALUES = 2**28  # in the largest activation of the one pass, 1 GiB; with fewer images, more points of each


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer whose inputs were cut, as it was and as it is."""

    whole: Member
    cut: Member
    outputs: np.ndarray | None  # positions of the whole layer's output that are left; None: all


def wanted(criterion: Importance) -> bool:
    """Whether `criterion` refits layers after the cut, and isn't told not to."""
    return criterion.reconstructs and criterion.reconstruct


def reconstruct(
    criterion: Importance,
    dense: nn.Module,
    pruned: nn.Module,
    groups: Groups,
    kept: surgery.Kept,
    calibration: Calibration | None,
    stage: str = "select",
) -> None:
    """Let `criterion` change, in place, the weights of every layer of `pruned` that reads pruned channels.

    `pruned` is `dense` cut down to the `kept` units of `groups`. Each reader is refitted on its own, with all of its
    channels, whatever groups they belong to; biases, norms and depthwise filters keep their values, and so does a
    layer that runs more than once. A criterion that doesn't reconstruct leaves everything as it is.
    StageError of `stage` when an activation isn't finite.
    """
    if not wanted(criterion):
        return
    assert calibration is not None
    found = readers(dense, groups, kept)
    used = min(len(calibration.images), max(1, MOST_VALUES // _largest_activation(dense, calibration)))
    most = criterion.points * len(calibration.images)
    one = _first(calibration, used)
    targets: dict[str, Tensor | None] = {}
    stretched = query_scales(dense, pruned)

    def remember(name: str, inputs: Tensor) -> None:
        reader = found[name]
        x, w = _split(dense, reader.whole, inputs, most, reader.outputs)
        target = x.flatten(2) @ w.flatten(1, 2)
        target[..., : target.shape[2] // 3] *= stretched.get(name, 1.0)
        targets[name] = None if name in targets else target

    def refit(name: str, inputs: Tensor) -> None:
        target = targets.pop(name, None)
        if target is not None:
            x, w = _split(pruned, found[name].cut, inputs, most)
            _write(pruned, found[name].cut, criterion.refit(Reading(name, x, w, target)))

    for model, look in ((dense, remember), (pruned, refit)):
        with torch.no_grad(), evaluating(model), finite_outputs(model, stage), _before(model, found, look):
            for batch in batches(model, one):
                model(batch.images)


def readers(dense: nn.Module, groups: Groups, kept: surgery.Kept) -> dict[str, Reader]:
    """Layer name -> the convolutions and linear layers that lost some of their inputs."""
    sides, narrow = sides_of(groups), sides_of(surgery.narrowed(groups, kept))
    alive = surgery.alive_of(groups, kept)
    found = {}
    for (layer, side), owners in sides.items():
        whole, cut = owners[0][1], narrow[layer, side][0][1]
        if side == "in" and cut.width < whole.width and isinstance(dense.get_submodule(layer), nn.Conv2d | nn.Linear):
            outs = sides.get((layer, "out"))
            found[layer] = Reader(whole, cut, surgery.positions_left(outs, alive) if outs else None)
    return found


def query_scales(dense: nn.Module, pruned: nn.Module) -> dict[str, float]:
    """Name of each `qkv` -> what surgery multiplied its queries, the first third of the outputs, by.

    Narrower heads divide by a smaller root of their width; `attention.refit` makes up for it in the query weights.
    """
    whole, cut = attentions(dense), attentions(pruned)
    narrower = {n: whole[n].scale / cut[n].scale for n in whole if hasattr(whole[n], "scale")}
    return {f"{name}.qkv": scale for name, scale in narrower.items()}


def _split(
    model: nn.Module, member: Member, inputs: Tensor, most: int, outputs: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """(inputs at sampled points, `most` at the most, weight) of a layer as `Reading` has them."""
    layer = view(model, member, other=outputs)
    groups = getattr(layer.module, "groups", 1)
    if len(inputs) > most:
        inputs = inputs[_drawn(len(inputs), most)]
    patches = sample_patches(layer, inputs, most // len(inputs), 0).double()  # (k, points, g * c)
    rows = layer.weight.double().reshape(*layer.weight.shape[:2], -1)  # (g * c, o, k)
    return patches.unflatten(2, (groups, -1)).permute(2, 1, 3, 0), rows.mT.unflatten(0, (groups, -1))


def _drawn(windows: int, most: int) -> Tensor:
    """(most,) windows to look at, in order, where swin cuts images to more of them than there may be points.

    Every n-th window could be the same place of each image. The uncut and the pruned network draw the same ones.
    """
    return torch.randperm(windows, generator=torch.Generator().manual_seed(0))[:most].sort().values


def _largest_activation(model: nn.Module, calibration: Calibration) -> int:
    """Values in the largest tensor that a module of `model` gives for one image."""
    largest = [calibration.images[:1].numel()]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest.append(output.numel())

    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for module in model.modules():
            stack.enter_context(module.register_forward_hook(note))
        for batch in batches(model, _first(calibration, 1)):
            model(batch.images)
    return max(largest)


def _first(calibration: Calibration, count: int) -> Calibration:
    """Its first `count` images as one batch."""
    images, labels = calibration.images[:count], calibration.labels[:count]
    return replace(calibration, images=images, labels=labels, batch_size=count)


def _write(model: nn.Module, member: Member, weight: Tensor) -> None:
    """Put a weight laid out as in `Reading` back into its layer."""
    parameter = model.get_submodule(member.layer).weight
    layout = arrangement(model, member)
    rows = weight.flatten(0, 1).mT.reshape(layout.rows(parameter).shape)
    with torch.no_grad():
        parameter.copy_(layout.whole(rows))


@contextmanager
def _before(model: nn.Module, names: Mapping[str, Any], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """`look(name, inputs)` right before each layer runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs: look(name, inputs[0].detach())

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(model.get_submodule(name).register_forward_pre_hook(hook(name)))
        yield
