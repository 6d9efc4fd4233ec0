"""Bounds for a saved network, checked before memory is filled: a file of others may say any width and image size."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registrations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raybench.errors import UserError, counted
from raybench.groups.attention import eval_mode
from raybench.provenance import machine_memory

ANY_NETWORK = 2**28  # bytes that the weights of any unpruned network may have
TIMES = 1000  # as often those of its pruned network
MOST_MODULES = 20_000
MOST_NUMBER = 65_536  # no depth, width or other parameter of a network is larger


def check_numbers(value: Any, at: str = "model_params") -> None:
    """UserError for a number in the parameters of a network that is none of a layer, a block or an image.

    Args:
        value: what was read from JSON.
        at: where it stood.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            check_numbers(inner, f"{at}.{name}")
    elif isinstance(value, list):
        for inner in value:
            check_numbers(inner, at)
    elif isinstance(value, int | float) and not abs(value) <= MOST_NUMBER:
        raise UserError(f"{at}: found {value:g}, expected at most {MOST_NUMBER:,}")


def built_within(build: Callable[[], nn.Module], stored: int, *, twice: bool) -> nn.Module:
    """What `build` returns, unless that has far more weights than the network that was cut from it.

    Args:
        build: builds the unpruned network.
        stored: bytes of the pruned network's weights.
        twice: build it without memory first, where its code can do that.

    Raises:
        UserError: it is too large. The memory of its weights was reserved, not filled.
    """
    most = max(ANY_NETWORK, min(TIMES * stored, machine_memory()))
    if twice:
        with contextlib.suppress(Exception), torch.device("meta"), _counted(most) as refused:
            build()
        if refused:
            raise UserError(refused[0])
    with _counted(most):
        return build()


@contextlib.contextmanager
def _counted(most: int) -> Iterator[list[str]]:
    """Inside, UserError as soon as this thread has made weights of more than `most` bytes. Yields why, if it has."""
    thread, known, refused = threading.get_ident(), set[int](), list[str]()
    total = modules = 0

    def stop(found: str) -> None:
        refused.append(f"found a network of {found}, which is none that these weights were cut from")
        raise UserError(refused[0])

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal total
        if threading.get_ident() != thread or not isinstance(value, Tensor) or id(value) in known:
            return
        known.add(id(value))
        with contextlib.suppress(ValueError):  # a lazy layer's, which has no size yet
            total += value.numel() * value.element_size()
        if total > most:
            stop(f"over {total / 1e9:.1f} GB")

    def count_module(module: nn.Module, name: str, value: Any) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > MOST_MODULES:
            stop(f"over {MOST_MODULES:,} layers")

    hooks = (
        registrations.register_module_parameter_registration_hook(count),
        registrations.register_module_buffer_registration_hook(count),
        registrations.register_module_module_registration_hook(count_module),
    )
    try:
        yield refused
    finally:
        for hook in hooks:
            hook.remove()


def check_memory(model: nn.Module, shape: tuple[int, ...]) -> None:
    """UserError if one image of `shape` (channels, height, width) needs more memory in `model` than this machine has.

    Nothing is computed. Of a network whose code computes with values, such as a detector's, nothing can be said.
    """
    memory = machine_memory()
    state = {name: value.to("meta") for name, value in [*model.named_parameters(), *model.named_buffers()]}
    with contextlib.suppress(Exception), eval_mode(model), torch.no_grad(), _Largest(memory) as largest:
        torch.func.functional_call(model, state, (torch.zeros(1, *shape, device="meta"),))
    if largest.size > memory:
        channels, height, width = shape
        raise UserError(
            f"found images of {width}x{height} with {counted(channels, 'channel')}: one needs over "
            f"{memory / 1e9:.0f} GB in this network, which is all that this machine has"
        )


class _Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation has returned; ends the computation above `most`.

    What all operations return is no bound: most of it is freed on the way.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.size = most, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = (one.numel() * one.element_size() for one in tree_leaves(found) if isinstance(one, Tensor))
        self.size = max((self.size, *sizes))
        if self.size > self.most:
            raise MemoryError
        return found
