"""The first runs of a network before anything is traced: names the mistakes that any run shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from raybench.errors import NotSupported, UserError
from raybench.groups.attention import plainly
from raybench.groups.layer_types import is_layer
from raybench.groups.restored import buffers_restored, modes_restored

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError)
TRIED = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384)  # image sizes, when the one given is too small


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Run `model` on the example and on an image of noise. The model isn't changed.

    Raises:
        UserError: layers without shapes, weights and image of different types, images too small for the network, or a
            network that runs on several images and not on one.
        NotSupported: which layers run depends on what the image shows, or some run in training only.
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
    _check_training(model, example, first)
    _check_single(model, example)
    if not example.is_floating_point():
        return
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    try:
        second = run_once(model, noise)
    except (RuntimeError, ValueError, AssertionError):  # it refuses what isn't like its images
        return
    _check_same(name, first, second)


def _check_training(model: nn.Module, example: Tensor, ran: Counter[str]) -> None:
    """NotSupported for layers that run in training only: they would read channels that are cut without them."""
    silent = [(n, m) for n, m in model.named_modules() if is_layer(m) and n not in ran]
    if not silent:
        return
    with _counting(silent) as calls, modes_restored(model):
        try:
            with torch.no_grad(), buffers_restored(model), torch.random.fork_rng(devices=[]):
                for module in model.modules():  # flags alone: no `train` method of the model is called
                    module.training = True
                model(torch.cat([example, example]))
        except FAILURES:  # a training pass that needs more than images
            pass
    if calls:
        raise NotSupported(
            f"can't group {type(model).__name__}: {next(iter(calls))} runs in training only, so a pass for tracing "
            "doesn't show what it reads. Build the network without such heads (torchvision: `aux_logits=False`)"
        )


def _check_single(model: nn.Module, example: Tensor) -> None:
    """UserError for a network that runs on a batch and not on its first image: costs are counted for one image."""
    if len(example) < 2:
        return
    try:
        run_once(model, example[:1])
    except FAILURES as error:
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{type(model).__name__} runs on {len(example)} images and not on one: {message}. Its forward names the "
            "batch size, or loses an axis of length one (`squeeze()`); MACs are counted for one image. Read sizes from "
            "`x.shape`, and squeeze named axes"
        ) from error


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
    with _counting(model.named_modules()) as calls, plainly(model), torch.no_grad(), buffers_restored(model):
        model(example)
    return calls


@contextmanager
def _counting(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Counter[str]]:
    """Inside, counts how often each of the named modules runs."""
    calls: Counter[str] = Counter()
    hooks = [m.register_forward_pre_hook(lambda m, i, n=n: calls.update([n])) for n, m in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


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
