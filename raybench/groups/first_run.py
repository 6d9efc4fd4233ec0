"""The first runs of a network before anything is traced: names the mistakes that any run shows."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from raybench.errors import NotSupported, UserError
from raybench.groups.attention import plainly
from raybench.groups.restored import buffers_restored

TRIED = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384)  # image sizes, when the one given is too small


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Run `model` on the example and on an image of noise. The model isn't changed.

    Raises:
        UserError: layers without shapes, weights and image of different types, or images too small for the network.
        NotSupported: which layers run depends on what the image shows.
    """
    name = type(model).__name__
    lazy = [full for full, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise UserError(f"{name}: {lazy[0]} has no shape yet (a lazy module); run the network on one image first")
    try:
        first = run_once(model, example)
    except (RuntimeError, ValueError) as error:
        _explain(model, example, error)
        raise
    if not example.is_floating_point():
        return
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    try:
        second = run_once(model, noise)
    except (RuntimeError, ValueError, AssertionError):  # it refuses what isn't like its images
        return
    _check_same(name, first, second)


def check_image(model: nn.Module, example: Tensor, image: Tensor) -> None:
    """Run `model` on a real image (1, channels, height, width) before the groups that `example` showed are believed.

    Raises:
        NotSupported: other layers run than on the example.
    """
    _check_same(type(model).__name__, run_once(model, example), run_once(model, image))


def _check_same(name: str, first: Counter[str], second: Counter[str]) -> None:
    if first != second:
        only = next(iter((first - second) + (second - first)))
        raise NotSupported(
            f"can't group {name}: which layers run depends on what the image shows ({only} ran for one image and not "
            "for another), so no run shows where all channels go"
        )


def run_once(model: nn.Module, example: Tensor) -> Counter[str]:
    """Run `model` in eval mode without gradients; returns how often each of its modules ran. Buffers are restored."""
    calls: Counter[str] = Counter()
    hooks = [m.register_forward_pre_hook(lambda m, i, n=n: calls.update([n])) for n, m in model.named_modules()]
    try:
        with plainly(model), torch.no_grad(), buffers_restored(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _explain(model: nn.Module, example: Tensor, error: Exception) -> None:
    """UserError for the usual reasons why a network doesn't run on its example."""
    name, message = type(model).__name__, (str(error).splitlines() or [""])[0][:200]
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if example.is_floating_point() and kinds and example.dtype not in kinds:
        kind = str(next(iter(kinds))).removeprefix("torch.")
        raise UserError(
            f"{name} has weights of {kind}; found images of {str(example.dtype).removeprefix('torch.')}. Convert the "
            "network with `.float()`; prune first and lower the precision afterwards"
        ) from error
    if example.dim() != 4 or not example.is_floating_point():
        return
    height, width = example.shape[-2:]
    for size in TRIED:
        if size <= min(height, width):
            continue
        try:
            run_once(model, torch.zeros(len(example), example.shape[1], size, size).to(example))
        except (RuntimeError, ValueError, AssertionError):
            continue
        raise UserError(
            f"{name} doesn't run on images of {height}x{width}: {message}. It runs on {size}x{size}; give larger "
            "images, or build the network for this size"
        ) from error
