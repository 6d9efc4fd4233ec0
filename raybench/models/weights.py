"""Loads weights from a file or a hub into a network, without running code from the file."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.models.fill import LoadReport, fill
from raybench.sweep.trial import Weights

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_ema", "state_dict_ema")  # keys that hold the state
# Metrics saved beside the weights are often numpy numbers. Only these names may be rebuilt.
ALLOWED: list[Any] = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType,
           (multiarray.scalar, "numpy.core.multiarray.scalar"),
           (multiarray.scalar, "numpy._core.multiarray.scalar")]  # fmt: skip
SHOWN = 5  # keys quoted in a message


def fill_from(model: nn.Module, weights: Weights) -> LoadReport:
    """Fill `model` with a trial's given weights, from a file or a hub."""
    if weights.kind == "file":
        assert weights.path is not None  # a file's weights have a path
        return load_weights(model, Path(weights.path))
    from raybench.models.hub import load_pretrained

    return load_pretrained(model, weights.identity)


def load_weights(model: nn.Module, path: Path | str) -> LoadReport:
    """Fill `model` from a file of safetensors or a torch state dict, strictly.

    ``module.`` prefixes and ``state_dict`` wrappers are taken off, and the zero-padded shortcuts of CIFAR ResNets
    become equivalent 1x1 convolutions. UserError when the file can't be read without running its code, or
    its weights belong to another architecture; then `model` is untouched.
    """
    path = Path(path)
    _check_zip(path)
    read = getattr(model, "read_weights", read_state)  # a model may have file formats of its own
    return fill(model, read(path), str(path))


def _check_zip(path: Path) -> None:
    """UserError when `path` is a zip, as torch.save writes it, and a member's content doesn't have its checksum.

    torch.load doesn't look at the checksums.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if broken:
        raise UserError(f"{path}: damaged: {broken} in it has another content than its checksum (CRC-32) is of")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, without prefixes and wrappers; UserError when it has none or is unsafe."""
    if not path.is_file():
        raise UserError(f"weights: found no file {path}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of weights: {error}") from error
    return _state_dict(_unwrapped(found), path)


def _load_torch(path: Path) -> Any:
    """Load a file of torch.save; only tensors, containers and numbers are rebuilt."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with torch.serialization.safe_globals(ALLOWED):
            refused = _refused(path)
        what = f"it would run {', '.join(refused)}" if refused else "it is not a file of torch.save"
        raise UserError(
            f"{path}: refused to load: {what}. Only tensors, containers and numbers are read; save model.state_dict()"
        ) from error


def _refused(path: Path) -> list[str]:
    """The names in a torch file that weights-only loading doesn't allow; empty for an old or broken file."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, ValueError, pickle.UnpicklingError):
        return []


def _unwrapped(found: Any) -> Any:
    """The innermost state dict under the usual wrappers."""
    while isinstance(found, Mapping):
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    return found


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a mapping, without a prefix that all names share."""
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: found {type(found).__name__}; expected a state dict (name -> tensor)")
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path}: found no tensors in it; its keys are {', '.join(map(str, list(found)[:SHOWN]))}")
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
