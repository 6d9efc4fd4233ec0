"""After the cut: refits the layers that read pruned channels to their original outputs, for criteria that do so.

The uncut network's outputs are recorded at sampled points. Then one pass through the pruned network refits each layer
right before it runs, so that its inputs come from layers that are refitted already (He et al., ICCV 2017, eq. 5:
reconstruct the original output from the current input).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.groups import surgery
from raybench.groups.attention import attentions
from raybench.groups.records import Groups, Member
from raybench.groups.widths import sides_of
from raybench.methods.contributions import sample_patches
from raybench.methods.layers import arrangement, view, weight_of
from raybench.methods.protocols import Calibration, Importance, RefitProblem
from raybench.scoring.evidence import batches, evaluating, finite_outputs

MOST_VALUES = 2**28  # in the largest activation of the pass, 1 GiB; beyond it fewer images, with more points of each


@dataclass(frozen=True)
class ConsumerLayer:
    """A convolution or linear layer that reads pruned channels."""

    whole: Member  # its input side before the cut
    cut: Member  # its input side after the cut
    outputs: np.ndarray | None  # remaining positions of its output side; None: all


def wanted(criterion: Importance) -> bool:
    """Whether `criterion` refits layers after the cut and has `reconstruct` on."""
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
    """Refit, in place, the weights of every layer of `pruned` that reads pruned channels, by `criterion.refit`.

    Does nothing for a criterion that doesn't reconstruct. `pruned` is `dense` cut down to the `kept` units of `groups`.
    Each layer is refitted separately, with all of its input channels, whatever groups they belong to. Norms, depthwise
    filters and layers that run more than once keep their values, biases do unless the criterion says `refits_bias`.
    StageError of `stage` when an activation isn't finite.
    """
    if not wanted(criterion):
        return
    assert calibration is not None
    found = consumers(dense, groups, kept)
    used = min(len(calibration.images), max(1, MOST_VALUES // _largest_activation(dense, calibration)))
    most = criterion.points * len(calibration.images)
    images = _first(calibration, used)
    targets: dict[str, Tensor | None] = {}
    scales = query_scales(dense, pruned)

    def remember(name: str, inputs: Tensor) -> None:
        consumer = found[name]
        x, w = _split(dense, consumer.whole, inputs, most, consumer.outputs)
        target = x.flatten(2) @ w.flatten(1, 2)
        target[..., : target.shape[2] // 3] *= scales.get(name, 1.0)
        targets[name] = None if name in targets else target

    def refit(name: str, inputs: Tensor) -> None:
        target = targets.pop(name, None)
        if target is not None:
            x, w = _split(pruned, found[name].cut, inputs, most)
            if criterion.refits_bias and getattr(pruned.get_submodule(name), "bias", None) is not None:
                _fit_with_bias(criterion, pruned, found[name].cut, RefitProblem(name, x, w, target))
            else:
                _write(pruned, found[name].cut, criterion.refit(RefitProblem(name, x, w, target)))

    for model, action in ((dense, remember), (pruned, refit)):
        with torch.no_grad(), evaluating(model), finite_outputs(model, stage), _before(model, found, action):
            for batch in batches(model, images):
                model(batch.images)


def consumers(dense: nn.Module, groups: Groups, kept: surgery.Kept) -> dict[str, ConsumerLayer]:
    """Layer name -> the convolutions and linear layers that lost some of their inputs."""
    sides, narrow = sides_of(groups), sides_of(surgery.narrowed(groups, kept))
    alive = surgery.alive_of(groups, kept)
    found = {}
    for (layer, side), owners in sides.items():
        whole, cut = owners[0][1], narrow[layer, side][0][1]
        reads = side == "in" and whole.kind != "parameter"
        if reads and cut.width < whole.width and isinstance(dense.get_submodule(layer), nn.Conv2d | nn.Linear):
            outs = sides.get((layer, "out"))
            found[layer] = ConsumerLayer(whole, cut, surgery.positions_left(outs, alive) if outs else None)
    return found


def query_scales(dense: nn.Module, pruned: nn.Module) -> dict[str, float]:
    """Name of each `qkv` -> the factor by which surgery scaled its queries, the first third of the outputs.

    Narrower heads divide by a smaller root of their width; `attention.refit` compensates in the query weights.
    """
    whole, cut = attentions(dense), attentions(pruned)
    narrower = {name: whole[name].scale / cut[name].scale for name in whole if hasattr(whole[name], "scale")}
    return {f"{name}.qkv": scale for name, scale in narrower.items()}


def _split(
    model: nn.Module, member: Member, inputs: Tensor, most: int, outputs: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """(inputs at no more than `most` sampled points, weight) of a layer, laid out as in `RefitProblem`."""
    layer = view(model, member, other=outputs)
    groups = getattr(layer.module, "groups", 1)
    if len(inputs) > most:
        inputs = inputs[_drawn(len(inputs), most)]
    patches = sample_patches(layer, inputs, most // len(inputs), 0).double()  # (k, points, g * c)
    rows = layer.weight.double().reshape(*layer.weight.shape[:2], -1)  # (g * c, o, k)
    return patches.unflatten(2, (groups, -1)).permute(2, 1, 3, 0), rows.mT.unflatten(0, (groups, -1))


def _drawn(windows: int, most: int) -> Tensor:
    """(most,) ascending indices of windows, for swin, which cuts images into more windows than points are allowed.

    Drawn at random, since every n-th window could be the same place of each image; the same for both networks.
    """
    return torch.randperm(windows, generator=torch.Generator().manual_seed(0))[:most].sort().values


def _largest_activation(model: nn.Module, calibration: Calibration) -> int:
    """Number of values in the largest output of a module of `model` for one image."""
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
    """The first `count` images as one batch."""
    images, labels = calibration.images[:count], calibration.labels[:count]
    return replace(calibration, images=images, labels=labels, batch_size=count)


def _fit_with_bias(criterion: Importance, model: nn.Module, member: Member, problem: RefitProblem) -> None:
    """Refit the weight to what varies around the means, then the bias to the means: least squares with an intercept."""
    middle, goal = (values.mean(1, keepdim=True) for values in (problem.inputs, problem.target))
    weight = criterion.refit(replace(problem, inputs=problem.inputs - middle, target=problem.target - goal))
    shift = goal - middle.flatten(2) @ weight.flatten(1, 2)  # (g, 1, o)
    _write(model, member, weight)
    bias = model.get_submodule(member.layer).bias
    assert isinstance(bias, Tensor)  # the caller has looked
    with torch.no_grad():
        bias.add_(shift.flatten().to(bias))


def _write(model: nn.Module, member: Member, weight: Tensor) -> None:
    """Write a weight laid out as in `RefitProblem` into its layer."""
    parameter = weight_of(model, member)
    assert parameter is not None  # convolutions and linear layers have one
    layout = arrangement(model, member)
    rows = weight.flatten(0, 1).mT.reshape(layout.rows(parameter).shape)
    with torch.no_grad():
        parameter.copy_(layout.whole(rows))


@contextmanager
def _before(model: nn.Module, names: Iterable[str], action: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, `action(name, inputs)` is called right before each of the layers `names` runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs: action(name, inputs[0].detach())

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(model.get_submodule(name).register_forward_pre_hook(hook(name)))
        yield
