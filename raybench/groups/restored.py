"""Contexts in which a network may change, and after which it is as before: its buffers, what requires a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Restore the buffers that `model` had on entering and still has, in their shape, on leaving."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            if name in before and buffer.shape == before[name].shape:
                buffer.copy_(before[name])


@contextmanager
def gradients(model: nn.Module, required: bool) -> Iterator[None]:
    """Inside, every parameter of `model` requires a gradient, or none does."""
    changed = [parameter for parameter in model.parameters() if parameter.requires_grad != required]
    try:
        for parameter in changed:
            parameter.requires_grad_(required)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not required)


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Restore every module's train flag on leaving."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
