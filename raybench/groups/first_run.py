"""The first runs of a network before anything is traced: names the mistakes that any run shows."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from raybench.error_text import message_of, name_of
from raybench.errors import NotSupported, RaybenchError, UserError, counted, said, short_of_memory
from raybench.groups.attention import plainly
from raybench.groups.hooks import hooked
from raybench.groups.layer_types import CONVOLUTIONS, is_layer
from raybench.groups.restored import buffers_restored, modes_restored

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError)
MOST_SECONDS = 8.0  # of finding images on which a network runs
TRIED = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384)  # image sizes, when the one given is too small


def check_runs(model: nn.Module, example: Tensor, vouched: Container[str] = ()) -> None:
    """Run `model` on the example and on an image of noise. The model isn't changed.

    Args:
        model: the network.
        example: one or several of its images.
        vouched: names of layers for which the network's author says that what they read keeps its width; they may run
            in training only.

    Raises:
        UserError: layers without shapes, weights and image of different types, images of a size or number of channels
            that the network doesn't take, whatever else its forward raises, or a network that runs on several images
            and not on one.
        NotSupported: which layers run depends on what the image shows, or some run in training only.
    """
    name = type(model).__name__
    check_ready(model)
    try:
        first = run_once(model, example)
    except (RaybenchError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a forward of others may raise anything
        raise UserError(_explained(model, example, error)) from error
    _check_training(model, example, first, vouched)
    _check_single(model, example)
    if not example.is_floating_point():
        return
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    try:
        second = run_once(model, noise)
    except Exception:  # it refuses what isn't like its images
        return
    _check_same(name, first, second)


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise `error` again if memory was short: that says nothing about the network."""
    if short_of_memory(name_of(error), message_of(error)):
        raise error


def check_ready(model: nn.Module) -> None:
    """UserError for a network that can't be traced as it is: TorchScript, or weights without shapes or values."""
    name = type(model).__name__
    for inner, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"its {inner}" if inner else "it"
            raise UserError(
                f"{name}: {what} is TorchScript, whose layers can't be changed; build the network in Python"
            )
    for full, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(f"{name}: {full} has no shape yet (a lazy module); run the network on one image first")
        if parameter.is_meta:
            raise UserError(
                f"{name}: {full} has a shape and no values (device meta); build the network on a CPU or GPU"
            )


def _check_training(model: nn.Module, example: Tensor, ran: Counter[str], vouched: Container[str]) -> None:
    """NotSupported for layers that run in training only: they would read channels that are cut without them."""
    silent = [(n, m) for n, m in model.named_modules() if is_layer(m) and n not in ran and n not in vouched]
    if not silent:
        return
    with _counting(silent) as calls, modes_restored(model):
        try:
            with torch.no_grad(), buffers_restored(model), torch.random.fork_rng(devices=[]):
                for module in model.modules():  # flags alone: no `train` method of the model is called
                    module.training = True
                model(torch.cat([example, example]))
        except Exception:  # a training pass that needs more than images
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
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} runs on {len(example)} images and not on one: {said(error)}. Its forward names "
            "the batch size, or loses an axis of length one (`squeeze()`); MACs are counted for one image. Read sizes "
            "from `x.shape`, and squeeze named axes"
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
        output = model(example)
    if _holds_itself(output):
        raise UserError(
            f"{type(model).__name__}: the {type(output).__name__} that its forward returns holds itself, so it can't "
            "be searched for tensors; return tensors, or a dict, list or tuple of tensors"
        )
    return calls


def _holds_itself(output: object, outer: tuple[int, ...] = ()) -> bool:
    """Whether a dict, list or tuple is one of its own parts, at any depth. `outer`: the ids of what `output` is in."""
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, list | tuple):
        parts = list(output)
    else:
        return False
    inside = (*outer, id(output))
    return any(id(part) in inside or _holds_itself(part, inside) for part in parts)


@contextmanager
def _counting(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Counter[str]]:
    """Inside, counts how often each of the named modules runs."""
    calls: Counter[str] = Counter()
    with hooked(m.register_forward_pre_hook(lambda m, i, n=n: calls.update([n])) for n, m in modules):
        yield calls


def _explained(model: nn.Module, example: Tensor, error: BaseException) -> str:
    """Why a network doesn't run on its example, and what to do, in one or two sentences."""
    name = type(model).__name__
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if example.is_floating_point() and kinds and example.dtype not in kinds:
        kind = str(next(iter(kinds))).removeprefix("torch.")
        return (
            f"{name} has weights of {kind}; found images of {str(example.dtype).removeprefix('torch.')}. Convert the "
            "network with `.float()`; prune first and lower the precision afterwards"
        )
    if needed := _needed(model):
        return (
            f"{name}: its forward takes {needed}, and is called with one batch of images alone; give the others "
            "defaults, or wrap the network in one that takes images"
        )
    if example.dim() != 4 or not example.is_floating_point():
        return f"{name} doesn't run on an input {tuple(example.shape)}: {said(error)}. Give an example as it takes it"
    height, width = example.shape[-2:]
    found, why = f"{name} doesn't run on images of {height}x{width}", said(error)
    other = _shape_that_runs(model, example)
    if other is None:
        return f"{found}: {why}. It runs on no size from {TRIED[0]} to {TRIED[-1]} that was tried; see its forward"
    channels, size = other
    if channels != example.shape[1]:
        takes = f"{size}x{size} with {counted(channels, 'channel')}"
        return (
            f"{found} with {counted(example.shape[1], 'channel')}: {why}. It runs on {takes}; give such images, or "
            "build the network for these"
        )
    kind = "larger" if size > min(height, width) else "smaller"
    return f"{found}: {why}. It runs on {size}x{size}; give {kind} images, or build the network for this size"


def _needed(model: nn.Module) -> str:
    """The arguments of the forward besides the images that have no default; empty if there are none."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (ValueError, TypeError):
        return ""
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not parameters:
        return "no images"
    return " and ".join(wanted) if len(wanted) > 1 else ""


def _shape_that_runs(model: nn.Module, example: Tensor) -> tuple[int, int] | None:
    """(channels, pixels) of square images on which the network runs, those nearest to the example first."""
    first = next((m for m in model.modules() if isinstance(m, CONVOLUTIONS)), None)
    own, given = getattr(first, "in_channels", example.shape[1]), min(example.shape[-2:])
    started = time.thread_time()
    for channels in dict.fromkeys((int(own), example.shape[1])):
        for size in sorted((given, *TRIED), key=lambda n: (n < given, n)):
            if (channels, size) == (example.shape[1], given) or time.thread_time() - started > MOST_SECONDS:
                continue
            try:
                run_once(model, torch.zeros(len(example), channels, size, size).to(example))
            except KeyboardInterrupt:
                raise
            except BaseException:
                continue
            return channels, size
    return None
