"""Loads a state dict into a network strictly, and reports keys that are missing, unexpected or of another shape."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.errors import RaybenchWarning, UserError, counted
from raybench.models.file_kinds import plain
from raybench.models.head import Head

SHOWN = 5  # keys that a message quotes


@dataclass(frozen=True)
class LoadReport:
    """Names of the loaded, missing and unexpected tensors."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the network only: they keep their initial values
    unexpected: tuple[str, ...]  # in the file only: they are ignored
    new: tuple[str, ...] = ()  # of the classifier that was left as it is

    def __str__(self) -> str:
        return f"{len(self.loaded)} loaded, {_named('missing', self.missing)}, {_named('unexpected', self.unexpected)}"


def fill(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, head: Head | None = None, *, new_head: bool = False
) -> LoadReport:
    """Fill `model` from a state dict.

    Args:
        model: is filled in place, or left untouched.
        state: name -> tensor, in the model's names.
        origin: where the state comes from, for messages.
        head: which tensors depend on the number of classes; None: unknown.
        new_head: leave those tensors as `model` has them, and ignore what the file has beyond the rest.

    Raises:
        UserError: names missing (batch-norm counters excepted), unexpected and differently shaped tensors; tensors
            that are no dense floating-point numbers where the network's are; NaN or infinite values.
    """
    own = model.state_dict()
    state = _with_shortcuts(model, state)
    new = _new_tensors(model, origin, head) if new_head else frozenset()
    fitting = {name: value for name, value in state.items() if name in own and name not in new}
    misshapen = {
        name: (tuple(value.shape), tuple(own[name].shape))
        for name, value in fitting.items()
        if value.shape != own[name].shape
    }
    missing = tuple(name for name in own if name not in fitting and name not in new)
    report = LoadReport(tuple(fitting), missing, tuple(n for n in state if n not in own), tuple(sorted(new)))
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if misshapen or lacking or (report.unexpected and not new_head):
        raise UserError(f"{origin}: {_misfit(model, report, misshapen, lacking, head)}")
    _check_dense(fitting, origin)
    _check_types(fitting, own, origin)
    model.load_state_dict(_converted(fitting, own, origin), strict=False)
    if new_head:
        _warn_of_new_head(report, state, origin)
    return report


def _new_tensors(model: nn.Module, origin: str, head: Head | None) -> frozenset[str]:
    """The tensors of the classifier, which stay new; UserError when the network has none."""
    if head is None or not head.tensors:
        raise UserError(f"{origin}: --new-head: no layer of {type(model).__name__} depends on the number of classes")
    return head.tensors


def _warn_of_new_head(report: LoadReport, state: Mapping[str, Tensor], origin: str) -> None:
    """Warn in one line which layers are new, and what of the file was left out."""
    counts = {len(state[name]) for name in report.new if name in state and state[name].ndim == 1}
    had = f", of {counted(counts.pop(), 'class', 'classes')} in the file," if len(counts) == 1 else ""
    left = f"; left out: {_named('tensors', report.unexpected)}" if report.unexpected else ""
    layers = sorted({name.rpartition(".")[0] for name in report.new})
    text = (
        f"{origin}: new head: {_listed(layers)}{had} starts untrained and is trained by the recipe's base stage{left}"
    )
    warnings.warn(text, RaybenchWarning, stacklevel=3)


Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # name -> (found, expected)


def _misfit(model: nn.Module, report: LoadReport, misshapen: Shapes, lacking: Sequence[str], head: Head | None) -> str:
    """What doesn't fit: the classifier alone, with the option that helps, or the architecture."""
    shapes = [f"{plain(name)} {found} instead of {expected}" for name, (found, expected) in misshapen.items()]
    if _only_head(report, misshapen, lacking, head):
        counts = {(found[0], expected[0]) for found, expected in misshapen.values() if found and expected}
        found, expected = next(iter(counts)) if len(counts) == 1 else (None, None)
        classes = counted(found or 0, "class", "classes")
        what = f"found weights for {classes}; the dataset has {expected}" if found else "its classifier differs"
        return (
            f"{what}: {_listed([*shapes, *(f'{name} is missing' for name in lacking)])}. --new-head (in a sweep "
            "`new_head: true` of the model) takes all other layers and trains a new classifier by the recipe's base"
        )
    return f"these are not weights of this {type(model).__name__}: {report}" + (
        f"; {_named('of another shape', shapes)}" if shapes else ""
    )


def _only_head(report: LoadReport, misshapen: Shapes, lacking: Sequence[str], head: Head | None) -> bool:
    """Whether nothing differs but the classifier."""
    if not (misshapen or lacking):
        return False
    if head is not None:
        parts = tuple(f"{name.rpartition('.')[0]}." for name in head.tensors)
        return {*misshapen, *lacking} <= head.tensors and all(name.startswith(parts) for name in report.unexpected)
    same_rest = all(found[1:] == expected[1:] and found for found, expected in misshapen.values())
    counts = {(found[:1], expected[:1]) for found, expected in misshapen.values()}
    return not lacking and not report.unexpected and same_rest and len(counts) == 1


def _check_dense(state: Mapping[str, Tensor], origin: str) -> None:
    """UserError for tensors without values of their own: sparse, quantised, or only shapes."""
    wrong = [f"{plain(name)}: {kind}" for name, value in state.items() if (kind := _odd_kind(value))]
    if any(value.is_meta for value in state.values()):
        raise UserError(f"{origin}: found {_named('tensors without values', wrong)}; save the network with its weights")
    if wrong:
        raise UserError(
            f"{origin}: found {_named('tensors that hold no plain numbers', wrong)}; expected dense floating-point "
            "weights: save tensor.to_dense() of sparse ones, or the network from before it was quantised"
        )


def _odd_kind(value: Tensor) -> str | None:
    """What kind of tensor it is if it isn't an ordinary one."""
    if value.is_meta:
        return "meta, a shape without values"
    if value.is_quantized:
        return f"quantised ({_type(value)})"
    return None if value.layout == torch.strided else str(value.layout).removeprefix("torch.").replace("_", " ")


def _check_types(state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> None:
    """UserError for values that would be floating-point weights but are given as integers, booleans or complex."""
    wrong = [
        f"{name}: {_type(value)} instead of {_type(own[name])}"
        for name, value in state.items()
        if own[name].is_floating_point() and not value.is_floating_point()
    ]
    if wrong:
        raise UserError(f"{origin}: found {_named('tensors of another type', wrong)}; expected floating-point weights")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _converted(state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The tensors in the network's precision; UserError for NaN or infinite ones where its own values are finite."""
    broken, converted = [], {}
    for name, given in state.items():
        value = own[name]
        try:
            converted[name] = given.detach().to(value)
        except (RuntimeError, TypeError) as error:
            message = f"{name}: {_type(given)} can't be converted to {_type(value)}"
            raise UserError(f"{origin}: found {message}; expected floating-point weights") from error
        count = int((~converted[name].isfinite() & value.isfinite()).sum())
        broken += [f"{count} of {value.numel()} in {name}"] if count else []
    if broken:
        raise UserError(f"{origin}: found {_named('tensors with NaN or infinite values', broken)}; expected numbers")
    return converted


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
    return f"{len(names)} {what} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    """At most a few names, in one line."""
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(plain(name) for name in names[:SHOWN]) + more
