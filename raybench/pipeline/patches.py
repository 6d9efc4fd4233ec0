"""Notices library functions that a unit has replaced: what later units compute would depend on it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from raybench.errors import StageError

PLACES: tuple[tuple[str, Any], ...] = (
    ("torch", torch),
    ("torch.nn.functional", F),
    ("torch.Tensor", torch.Tensor),
    ("torch.nn.init", nn.init),
    ("torch.linalg", torch.linalg),
    ("torch.autograd", torch.autograd),
)
KINDS = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
METHODS = ("forward", "__call__", "_call_impl", "step", "_conv_forward")
OTHERS = {("torch", "save"), ("torch", "load")}  # ultralytics replaces them while it is imported; they compute nothing
SHOWN = 3
TORCH = str(Path(torch.__file__).parent)


@cache
def remember() -> dict[tuple[str, str], tuple[Any, Any]]:
    """(place, name) -> (its holder, the function) of what units call of torch, as it is at the first call."""
    found = {(place, name): (holder, function) for place, name, holder, function in _functions()}
    return {key: value for key, value in found.items() if key not in OTHERS}


def check(stage: str) -> None:
    """Put replaced functions back.

    Raises:
        StageError: there were some; its message names them. What the unit has computed must not be published.
    """
    replaced = []
    for (place, name), (holder, function) in remember().items():
        present = vars(holder).get(name)
        if present is not function and not _is_torchs_own(present):
            setattr(holder, name, function)
            replaced.append(f"{place}.{name}")
    if replaced:
        more = f" and {len(replaced) - SHOWN} more" if len(replaced) > SHOWN else ""
        raise StageError(
            stage,
            f"{', '.join(replaced[:SHOWN])}{more} was replaced while this ran, by a plug-in or a model's code: other "
            "cells would compute with it. It is put back; call a function of your own instead",
        )


def _is_torchs_own(function: Any) -> bool:
    """Whether torch itself defines `function`: some parts, imported late, wrap others."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(TORCH)


def _functions() -> Iterator[tuple[str, str, Any, Any]]:
    """(where it is, its name, what holds it, the function) of everything that is watched."""
    for place, holder in PLACES:
        for name, value in list(vars(holder).items()):
            if isinstance(value, KINDS):
                yield place, name, holder, value
    classes = [(module, found) for module in (nn, torch.optim) for found in vars(module).values()]
    for module, kind in classes:
        for name in METHODS if isinstance(kind, type) else ():
            if name in vars(kind):
                yield f"{module.__name__}.{kind.__name__}", name, kind, vars(kind)[name]
