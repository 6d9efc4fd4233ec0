"""Weights that others made, into a network of ours: read without running their code, and reported key by key."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.spec.trial import Weights

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_ema", "state_dict_ema")  # keys that hold the state
# A metric saved beside the weights is often a numpy number. These names, and no others, may be rebuilt.
ALLOWED = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType,
           (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
           (np._core.multiarray.scalar, "numpy._core.multiarray.scalar")]  # fmt: skip
SHOWN = 5  # keys that a message quotes


@dataclass(frozen=True)
class LoadReport:
    """What of a file went where."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the network has them, the file doesn't: they keep their initial values
    unexpected: tuple[str, ...]  # the file has them, the network doesn't: they are left out

    def __str__(self) -> str:
        return f"{len(self.loaded)} loaded, {_named('missing', self.missing)}, {_named('unexpected', self.unexpected)}"


def fill_from(model: nn.Module, weights: Weights) -> LoadReport:
    """Fill `model` with the weights that a trial names: a file, or the hub's."""
    if weights.kind == "file":
        assert weights.path is not None
        return load_weights(model, Path(weights.path))
    from raybench.models.hub import load_pretrained

    return load_pretrained(model, weights.identity)


def load_weights(model: nn.Module, path: Path | str) -> LoadReport:
    """Fill `model` from a file of safetensors or a torch state dict, strictly.

    ``module.`` prefixes and ``state_dict`` wrappers are taken off, and the zero-padded shortcuts of CIFAR ResNets
    become the 1x1 convolutions that they equal. UserError when the file can't be read without running its code, or
    its weights belong to another architecture; then `model` is untouched.
    """
    path = Path(path)
    read = getattr(model, "read_weights", read_state)  # a model may know file formats of its own
    return fill(model, read(path), str(path))


def fill(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> LoadReport:
    """Fill `model` from a state dict; UserError naming what does not fit, counters of batch norms excepted.

    Nor do values fit that are NaN or infinite.
    """
    own = model.state_dict()
    state = _with_shortcuts(model, state)
    odd = {
        name: (tuple(state[name].shape), tuple(own[name].shape))
        for name in own
        if name in state and state[name].shape != own[name].shape
    }
    missing = tuple(name for name in own if name not in state)
    report = LoadReport(tuple(n for n in own if n in state), missing, tuple(n for n in state if n not in own))
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if odd or lacking or report.unexpected:
        shapes = [f"{name} {found} instead of {expected}" for name, (found, expected) in odd.items()]
        raise UserError(
            f"{origin}: these are not weights of this {type(model).__name__}: {report}"
            + (f"; {_named('of another shape', shapes)}" if shapes else "")
        )
    _check_finite(state, own, origin)
    model.load_state_dict(dict(state), strict=False)
    return report


def _check_finite(state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> None:
    """UserError for NaN or infinite values, in the network's precision, where the network's own values are finite."""
    broken = []
    for name, value in own.items():
        if name in state:
            given = state[name].to(value)
            count = int((~given.isfinite() & value.isfinite()).sum())
            broken += [f"{count} of {value.numel()} in {name}"] if count else []
    if broken:
        raise UserError(f"{origin}: found {_named('tensors with NaN or infinite values', broken)}; expected numbers")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, without prefixes and wrappers; UserError when there are none or it isn't safe."""
    if not path.is_file():
        raise UserError(f"weights: found no file {path}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of weights: {error}") from error
    return _plain(_unwrapped(found), path)


def _load_torch(path: Path) -> Any:
    """What torch.save wrote, rebuilt from tensors, containers and numbers only."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with torch.serialization.safe_globals(ALLOWED):
            refused = _refused(path)
        what = f"it would run {', '.join(refused)}" if refused else "it is no file of torch.save"
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


def _plain(found: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: found {type(found).__name__}; expected a state dict (name -> tensor)")
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path}: found no tensors in it; its keys are {', '.join(map(str, list(found)[:SHOWN]))}")
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _with_shortcuts(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the weights of 1x1 shortcuts where the file has zero-padded ones, which carry none (option A).

    ``x[:, :, ::2, ::2]`` padded by (out - in) / 2 zero channels on both sides is the convolution with
    W[k + (out - in) / 2, k] = 1 and zeros elsewhere.
    """
    state = dict(state)
    if any("shortcut" in name or "downsample" in name for name in state):
        return state  # the file has shortcuts of its own
    for name, module in model.named_modules():
        if name.endswith(".shortcut") and isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            weight = torch.zeros_like(module.weight, device="cpu")
            before = (module.out_channels - module.in_channels) // 2
            channels = torch.arange(module.in_channels)
            weight[channels + before, channels] = 1
            state[f"{name}.weight"] = weight
    return state


def _named(what: str, names: tuple[str, ...] | list[str]) -> str:
    """`2 missing (a, b)`, at most a few names."""
    if not names:
        return f"0 {what}"
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
