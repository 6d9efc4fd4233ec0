"""Mean of squared per-sample gradients, the diagonal of the empirical Fisher matrix, from one batched backward pass.

A layer's weight gradient for sample n is a product of its inputs and the gradient of its outputs, which the backward
pass has in memory: sum_t g_nt (outer) x_nt over the positions t. So one forward and one backward pass *with respect
to activations only* are enough, and each layer adds sum_n (sum_t g_nt x_nt)^2 when its output gradient is computed.
In eval mode samples don't interact, so the rows of one batched gradient are the gradients of single samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.errors import RaybenchError
from raybench.groups.hooks import hooked
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration
from raybench.scoring.evidence import Batch, Labels, batches, check_finite, members_by_parameter
from raybench.scoring.squared_products import squared_products

Squares = Callable[[Any, Tensor, Tensor], Tensor]  # (module, inputs, gradient of outputs) -> like the weight


def gradient_squares(model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration) -> dict[str, Tensor]:
    """Weight name -> mean_i (dL_i/dw)^2; L_i is the loss of image i alone.

    Layers of types without a batched rule, and layers that run more than once, are differentiated sample by sample.
    """
    names = members_by_parameter(model, groups)
    rules = {name: rule for name, m in names.items() if (rule := rule_for(model.get_submodule(m.layer)))}
    total: dict[str, Tensor] = {}
    for batch in batches(model, calibration):
        by_layer = {names[name].layer: (name, rule) for name, rule in rules.items()}
        chosen, again = _batched(model, by_layer, labels, batch, total)
        slow = [name for name in names if name not in rules or name in again]
        _one_by_one(model, slow, labels, chosen, total)
    found = {name: total[name] / len(calibration.images) for name in names if name in total}
    return check_finite(found, "gradient", names)


def rule_for(module: nn.Module) -> Squares | None:
    """The function that computes `module`'s summed squared weight gradients in one batch; None: there is none."""
    if isinstance(module, nn.Linear):
        return _linear
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return _conv
    if isinstance(module, _BatchNorm) and module.track_running_stats:
        return _batch_norm
    return _layer_norm if isinstance(module, nn.LayerNorm) else None


def _batched(
    model: nn.Module, rules: dict[str, tuple[str, Squares]], labels: Labels, batch: Batch, total: dict[str, Tensor]
) -> tuple[Batch, set[str]]:
    """Add one batch's sums of squares to `total`.

    Returns the batch with the labels that were used, and the parameters whose layer ran more than once (not added).
    """
    calls: Counter[str] = Counter()
    sums: dict[str, Tensor] = {}

    def add(name: str, rule: Squares, module: nn.Module, inputs: Tensor, version: int, gradient: Tensor) -> None:
        if inputs._version != version:
            raise RaybenchError(f"the input of the layer that holds {name!r} was changed in place after use")
        sums[name] = rule(module, inputs, gradient)

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str, rule: Squares) -> None:
        calls[name] += 1
        seen = inputs[0].detach()
        output.register_hook(partial(add, name, rule, module, seen, seen._version))

    handles = [
        model.get_submodule(layer).register_forward_hook(partial(watch, name=name, rule=rule))
        for layer, (name, rule) in rules.items()
    ]
    with hooked(handles):
        with torch.enable_grad():
            images = batch.images.detach().requires_grad_()
            output = model(images)
            chosen = labels.choose(output, batch)
            loss = labels.loss(output, chosen) * len(images)
        torch.autograd.grad(loss, images)
    again = {name for name, count in calls.items() if count > 1}
    for name, value in sums.items():
        if name not in again:
            total[name] = total[name] + value if name in total else value
    return chosen, again


def _one_by_one(model: nn.Module, names: list[str], labels: Labels, batch: Batch, total: dict[str, Tensor]) -> None:
    """Add one batch's sums of squares of the parameters `names`, with one backward pass per sample."""
    for i in range(len(batch.images) if names else 0):
        leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
        one = batch.only(i)
        with torch.enable_grad():
            loss = labels.loss(functional_call(model, leaves, (one.images,)), one)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                square = gradient.square()
                total[name] = total[name] + square if name in total else square


def _linear(module: nn.Linear, inputs: Tensor, gradient: Tensor) -> Tensor:
    n = len(inputs)
    return squared_products(gradient.reshape(n, -1, gradient.shape[-1]), inputs.reshape(n, -1, inputs.shape[-1]))


def _conv(module: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Tensor:
    """From inputs unfolded into patches. Taps that only read padding (3x3 on 1x1 maps) have a gradient of 0."""
    groups, weight = module.groups, module.weight
    taps = weight.shape[2] * weight.shape[3]
    if taps == 1 and module.padding == (0, 0):
        patches = inputs[:, :, :: module.stride[0], :: module.stride[1]].flatten(2).unsqueeze(2)
    else:
        assert not isinstance(module.padding, str)  # see `rule_for`
        patches = F.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
        patches = patches.unflatten(1, (-1, taps))  # (n, in, taps, positions)
    live = _live_taps(module, inputs.shape[2:], gradient.shape[2:])
    seen = patches if len(live) == taps else patches[:, :, live]
    seen = seen.unflatten(1, (groups, -1)).flatten(2, 3).flatten(0, 1).mT  # (n * groups, positions, in/g * taps)
    arriving = gradient.flatten(2).unflatten(1, (groups, -1)).flatten(0, 1).mT  # (n * groups, positions, out/g)
    squares = squared_products(arriving, seen, groups).unflatten(1, (weight.shape[1], len(live)))
    if len(live) < taps:
        squares = squares.new_zeros(*weight.shape[:2], taps).index_copy_(
            2, torch.tensor(live).to(inputs.device), squares
        )
    return squares.view_as(weight)


def _live_taps(module: nn.Conv2d, size: torch.Size, out: torch.Size) -> list[int]:
    """Indices of the kernel's taps that read an input, not padding, at some output position."""
    seen = [
        [any(0 <= t * stride + k * dilation - pad < n for t in range(m)) for k in range(kernel)]
        for kernel, stride, dilation, pad, n, m in zip(
            module.kernel_size, module.stride, module.dilation, module.padding, size, out, strict=True
        )
    ]
    return [i * len(seen[1]) + j for i, row in enumerate(seen[0]) for j, column in enumerate(seen[1]) if row and column]


def _batch_norm(module: _BatchNorm, inputs: Tensor, gradient: Tensor) -> Tensor:
    """d loss_n / d gamma_c = sum_t g_nct (x_nct - mean_c) / sqrt(var_c + eps), running statistics."""
    assert module.running_mean is not None  # see `rule_for`
    assert module.running_var is not None
    shape = [1, -1] + [1] * (inputs.dim() - 2)
    normal = (inputs - module.running_mean.view(shape)) * (module.running_var + module.eps).rsqrt().view(shape)
    return _over_positions(gradient * normal)


def _layer_norm(module: nn.LayerNorm, inputs: Tensor, gradient: Tensor) -> Tensor:
    normal = F.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    over = tuple(range(1, inputs.dim() - len(module.normalized_shape)))
    products = gradient * normal
    return (products.sum(over) if over else products).square().sum(0)


def _over_positions(products: Tensor) -> Tensor:
    """(channels,) sum over n of (sum over positions)^2, from (n, channels, ...)."""
    return products.flatten(2).sum(2).square().sum(0) if products.dim() > 2 else products.square().sum(0)
