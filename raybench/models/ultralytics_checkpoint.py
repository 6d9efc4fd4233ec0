"""Weights out of an ultralytics checkpoint, which is a pickled module tree, without running anything that is in it.

The file is read with `torch.load(weights_only=True)`. The classes that it names are looked up in a list of exact
names, and what is built for each is an inert `Shell` that only keeps its attributes: no class of ultralytics or
torch.nn is called, so no constructor can be misused. The state dict is then read off the shells.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybench.errors import UserError

ALLOWED = (
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "ultralytics.nn.modules.block.Attention",
    "ultralytics.nn.modules.block.Bottleneck",
    "ultralytics.nn.modules.block.C2PSA",
    "ultralytics.nn.modules.block.C2f",
    "ultralytics.nn.modules.block.C3k",
    "ultralytics.nn.modules.block.C3k2",
    "ultralytics.nn.modules.block.DFL",
    "ultralytics.nn.modules.block.PSABlock",
    "ultralytics.nn.modules.block.SPPF",
    "ultralytics.nn.modules.conv.Concat",
    "ultralytics.nn.modules.conv.Conv",
    "ultralytics.nn.modules.conv.DWConv",
    "ultralytics.nn.modules.head.Detect",
    "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.utils.IterableSimpleNamespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class Shell:
    """Stands in for every class on the list: attributes, and no behaviour."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Whatever a file passes to a constructor is ignored."""

    def __setstate__(self, state: Any) -> None:
        """Keep attributes; what is no dict belongs to numbers that nobody reads here."""
        if isinstance(state, dict):
            vars(self).update(state)

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(qualified name, tensor) of the parameters and buffers at and below what was a module."""
        for kind in ("_parameters", "_buffers"):
            for name, value in vars(self).get(kind, {}).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value.detach().float() if value.is_floating_point() else value.detach()
        for name, child in vars(self).get("_modules", {}).items():
            if isinstance(child, Shell):
                yield from child.tensors(f"{prefix}{name}.")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict (float32) in the checkpoint or plain state dict `path`, in the file's own names.

    Of a training checkpoint the averaged weights (`ema`) are taken where there are any, as ultralytics does.
    UserError when the file is none, or names a class that is not on the list.
    """
    try:
        with _only_shells():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{path}: {_why(path, error)}") from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(found, Mapping) and found.get(key) is not None:
            found = found[key]
            break
    state = dict(found.tensors()) if isinstance(found, Shell) else found
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: found no weights; expected an ultralytics checkpoint or a state dict of tensors")
    return dict(state)


@contextmanager
def _only_shells() -> Iterator[None]:
    """torch's allow-list holds our inert stand-ins and nothing else: whatever a library put there would be run."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(Shell, name) for name in ALLOWED])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _why(path: Path, error: Exception) -> str:
    """What is wrong with the file, in words."""
    try:
        strangers = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(ALLOWED))
    except Exception:  # not a zip archive, or a broken one: `error` says it
        strangers = []
    if strangers:
        return (
            f"refused: the checkpoint names {', '.join(strangers[:3])}, not among the {len(ALLOWED)} classes of YOLO "
            "detection models that raybench reads; nothing in it was run"
        )
    first = str(error).strip().partition("\n")[0]
    return f"can't be read as a checkpoint or state dict ({first})"
