"""Reads a file of torch.save without running its code: tensors, containers, numbers; other classes are shells."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybench.errors import UserError
from raybench.models.file_kinds import plain

# What training scripts save beside weights: arguments, metrics, paths, times. Names only, none of this code is called.
BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "copyreg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy.bool_",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.torch_version.TorchVersion",
    "types.SimpleNamespace",
    "typing.Any",
)
# Packages whose objects training tools save beside weights: settings, histories, states of callbacks.
BESIDE_PACKAGES = ("easydict", "fvcore", "lightning", "lightning_fabric", "mmcv", "mmengine", "omegaconf",
                   "pytorch_lightning", "yacs")  # fmt: skip
SETTINGS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)  # subclasses of dict, which become one
ANY_CODE = 3  # names of refused code that a message quotes


class Shell:
    """Placeholder for every class that a file names: it has attributes and no behaviour."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Constructor arguments in the file are ignored."""

    def __setstate__(self, state: Any) -> None:
        """Keep attributes. A state that is not a dict of names is a number's or an array's, which is not needed."""
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            vars(self).update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of a subclass of dict are not needed."""

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(qualified name, tensor) of the parameters and buffers of this module and its children, each module once."""
        waiting, seen = [(prefix, self)], set[int]()
        while waiting:
            start, module = waiting.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            for kind in ("_parameters", "_buffers"):
                for name, value in _items(module, kind):
                    if isinstance(value, Tensor):
                        yield start + name, value
            children = [(f"{start}{name}.", child) for name, child in _items(module, "_modules")]
            waiting += [(name, child) for name, child in reversed(children) if isinstance(child, Shell)]


def _items(module: Shell, kind: str) -> list[tuple[str, Any]]:
    """The named entries of `module`'s dict `kind`; none where the file has something else there."""
    found = vars(module).get(kind)
    return [(str(name), value) for name, value in found.items()] if isinstance(found, dict) else []


def _empty_dict(*arguments: Any) -> dict[Any, Any]:
    """What a defaultdict becomes; the file then fills it."""
    return {}


def _empty_list(*arguments: Any) -> list[Any]:
    """What a deque becomes; the file then fills it."""
    return []


def load_inert(path: Path, shells: Collection[str] = ()) -> Any:
    """What torch.save wrote to `path`, on the CPU. Only tensors, containers and numbers are built.

    Args:
        path: a zip of torch.save, or a file of torch before 1.6.
        shells: further names of classes that become a `Shell`.

    Raises:
        UserError: the file holds other code, which is named and not run, or can't be read.
    """
    known = set(BESIDE_WEIGHTS) | set(shells)
    others = _others(path, known)
    refused = sorted(name for name in others if name.partition(".")[0] not in BESIDE_PACKAGES)
    if refused:
        raise UserError(_would_run(path, refused))
    try:
        with _only_shells(known | set(others)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's age: what matters is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise nearly every type there is
        raise UserError(f"{path}: {_why(error)}") from error


def _others(path: Path, known: Collection[str]) -> list[str]:
    """Names in the file that weights-only loading allows neither by itself nor in `known`; empty for an old file."""
    with _only_shells(known):
        try:
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # no zip, or a broken one: reading it says why
            return []


@contextmanager
def _only_shells(names: Collection[str]) -> Iterator[None]:
    """Context in which torch's allow-list holds only the shells: classes that libraries add to it would be called."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    containers = [(_empty_dict, "collections.defaultdict"), (_empty_list, "collections.deque")]
    settings = [(dict, name) for name in SETTINGS]
    torch.serialization.add_safe_globals([*((Shell, name) for name in names), *containers, *settings])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _would_run(path: Path, names: list[str]) -> str:
    """The message about a file that names code."""
    more = f" and {len(names) - ANY_CODE} more" if len(names) > ANY_CODE else ""
    whole = any(name.startswith(("torch.nn.modules.", "__main__.", "torchvision.models", "timm.")) for name in names)
    what = "a whole network was saved, not its weights" if whole else "none of it was run"
    return (
        f"{path}: refused to load: it would run {', '.join(map(plain, names[:ANY_CODE]))}{more} ({what}). "
        "Only tensors, containers and numbers are read: load it where its code is and save model.state_dict()"
    )


def _why(error: Exception) -> str:
    """What is wrong with a file that torch.load refuses or trips over."""
    text = str(error)
    message = plain(text.partition("WeightsUnpickler error: ")[2] or text) or type(error).__name__
    if "Unsupported global: GLOBAL " in text:
        name = text.partition("GLOBAL ")[2].partition(" ")[0]
        return (
            f"refused to load: it would run {plain(name)}. "
            "Only tensors, containers and numbers are read: save model.state_dict()"
        )
    if "legacy .tar format" in text:
        message = "no archive or pickle"
    return (
        "not a readable file of weights: it is damaged or not a file of torch.save "
        f"({type(error).__name__}: {message}); "
        "download or copy it again, or save model.state_dict()"
    )
