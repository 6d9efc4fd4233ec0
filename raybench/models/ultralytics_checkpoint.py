"""Reads weights from an ultralytics checkpoint (a pickled module tree) without running any code of the file.

The file is read with `torch.load(weights_only=True)`. Class names must be in a list of exact names, and for each an
inert `Shell` is built that only keeps its attributes. No class of ultralytics or torch.nn is called, so no constructor
can be misused. The state dict is then collected from the shells.
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
    """Placeholder for every allowed class: it has attributes and no behaviour."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Constructor arguments in the file are ignored."""

    def __setstate__(self, state: Any) -> None:
        """Keep attributes. A state that is not a dict is a numpy number's, which is not needed."""
        if isinstance(state, dict):
            vars(self).update(state)

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(qualified name, tensor) of the parameters and buffers of this module and its children."""
        for kind in ("_parameters", "_buffers"):
            for name, value in vars(self).get(kind, {}).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value.detach().float() if value.is_floating_point() else value.detach()
        for name, child in vars(self).get("_modules", {}).items():
            if isinstance(child, Shell):
                yield from child.tensors(f"{prefix}{name}.")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict (float32) in the checkpoint or state-dict file `path`, in the file's own names.

    A training checkpoint's averaged weights (`ema`) are preferred, as in ultralytics. UserError when the file is
    unreadable or contains a class that is not allowed.
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
    """Context in which torch's allow-list holds only the shells: classes that libraries add to it would be called."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(Shell, name) for name in ALLOWED])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _why(path: Path, error: Exception) -> str:
    """Description of what is wrong with the file."""
    try:
        refused = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(ALLOWED))
    except Exception:  # not a zip archive, or a broken one: `error` describes it
        refused = []
    if refused:
        return (
            f"refused: the checkpoint contains {', '.join(refused[:3])}, not among the {len(ALLOWED)} classes of YOLO "
            "detection models that raybench reads; none of its code was run"
        )
    first = str(error).strip().partition("\n")[0]
    return f"can't be read as a checkpoint or state dict ({first})"
