"""Loads a state dict into a network strictly, and reports keys that are missing, unexpected or of another shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.errors import UserError

SHOWN = 5  # keys that a message quotes


@dataclass(frozen=True)
class LoadReport:
    """Names of the loaded, missing and unexpected tensors."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the network only: they keep their initial values
    unexpected: tuple[str, ...]  # in the file only: they are ignored

    def __str__(self) -> str:
        return f"{len(self.loaded)} loaded, {_named('missing', self.missing)}, {_named('unexpected', self.unexpected)}"


def fill(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> LoadReport:
    """Fill `model` from a state dict.

    UserError naming missing (batch-norm counters excepted), unexpected and differently shaped tensors, tensors of
    integers or booleans where the network has floating-point numbers, and NaN or infinite values.
    """
    own = model.state_dict()
    state = _with_shortcuts(model, state)
    misshapen = {
        name: (tuple(state[name].shape), tuple(own[name].shape))
        for name in own
        if name in state and state[name].shape != own[name].shape
    }
    missing = tuple(name for name in own if name not in state)
    report = LoadReport(tuple(n for n in own if n in state), missing, tuple(n for n in state if n not in own))
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if misshapen or lacking or report.unexpected:
        shapes = [f"{name} {found} instead of {expected}" for name, (found, expected) in misshapen.items()]
        raise UserError(
            f"{origin}: these are not weights of this {type(model).__name__}: {report}"
            + (f"; {_named('of another shape', shapes)}" if shapes else "")
        )
    _check_types(state, own, origin)
    _check_finite(state, own, origin)
    model.load_state_dict(dict(state), strict=False)
    return report


def _check_types(state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> None:
    """UserError for values that would be floating-point weights but are given as integers, booleans or complex."""
    wrong = [
        f"{name}: {_type(state[name])} instead of {_type(value)}"
        for name, value in own.items()
        if name in state and value.is_floating_point() and not state[name].is_floating_point()
    ]
    if wrong:
        raise UserError(f"{origin}: found {_named('tensors of another type', wrong)}; expected floating-point weights")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_finite(state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> None:
    """UserError for values that are NaN or infinite in the network's precision, where its own values are finite."""
    broken = []
    for name, value in own.items():
        if name in state:
            given = state[name].to(value)
            count = int((~given.isfinite() & value.isfinite()).sum())
            broken += [f"{count} of {value.numel()} in {name}"] if count else []
    if broken:
        raise UserError(f"{origin}: found {_named('tensors with NaN or infinite values', broken)}; expected numbers")


def _with_shortcuts(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add weights for 1x1 shortcuts if the file is of a network with zero-padded shortcuts, which have none (option A).

    ``x[:, :, ::2, ::2]`` padded by (out - in) / 2 zero channels on both sides is the convolution with
    W[k + (out - in) / 2, k] = 1 and zeros elsewhere.
    """
    state = dict(state)
    if any("shortcut" in name or "downsample" in name for name in state):
        return state  # the file has weights for its shortcuts
    for name, module in model.named_modules():
        if name.endswith(".shortcut") and isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            weight = torch.zeros_like(module.weight, device="cpu")
            before = (module.out_channels - module.in_channels) // 2
            channels = torch.arange(module.in_channels)
            weight[channels + before, channels] = 1
            state[f"{name}.weight"] = weight
    return state


def _named(what: str, names: tuple[str, ...] | list[str]) -> str:
    """Text like `2 missing (a, b)`, with at most a few names."""
    if not names:
        return f"0 {what}"
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
