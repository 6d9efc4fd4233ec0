"""The layers of a network whose latency depends on widths: what each is, its input's shape, copies at other widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.groups.hooks import hooked
from raybench.groups.layer_types import NORMS
from raybench.groups.widths import Widths

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # of a width, at which a layer is timed
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@dataclass(frozen=True)
class TimedLayer:
    """One layer as it is applied in a forward pass of one image."""

    name: str
    kind: str  # class, kernel, stride and the like: layers with the same words and grids are one shape
    into: int  # columns of the width table; both are the same where the outputs follow the inputs
    out: int
    grid_in: tuple[int, ...]  # widths at which it is timed, rising; one where the side keeps its width
    grid_out: tuple[int, ...]
    values: float  # outputs per channel: pixels or tokens
    build: Callable[[int, int], tuple[nn.Module, Tensor]]  # (inputs, outputs) -> the layer and its input


def timed_layers(model: nn.Module, image: Tensor, widths: Widths) -> list[TimedLayer]:
    """Every application of a convolution, linear layer or norm in a forward pass of `image`, in order."""
    found: list[TimedLayer] = []
    shrinks = {column: bool(np.any(widths.per_unit[:, column])) for column in widths.columns.values()}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given = inputs[0] if inputs else None
        if isinstance(given, Tensor) and isinstance(output, Tensor):
            found.append(_layer(name, module, given.shape, output.shape, widths, shrinks))

    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: note(name, m, i, o))
        for name, module in model.named_modules()
        if isinstance(module, KINDS) and _known(module)
    ]
    with hooked(hooks), torch.inference_mode():
        model(image)
    return found


def _known(module: nn.Module) -> bool:
    """Whether copies of other widths can be built: of torch's own classes, with plain zero padding.

    Not of depthwise convolutions with several outputs a channel, whose sides shrink together at unequal widths.
    """
    plain = type(module).__module__.startswith("torch.nn") and getattr(module, "padding_mode", "zeros") == "zeros"
    groups, into = getattr(module, "groups", 1), getattr(module, "in_channels", 0)
    return plain and not (1 < groups == into < getattr(module, "out_channels", 0))


def _layer(
    name: str, module: nn.Module, given: torch.Size, output: torch.Size, widths: Widths, shrinks: Mapping[int, bool]
) -> TimedLayer:
    out = widths.column(name, "out")
    tied = isinstance(module, NORMS) or 1 < getattr(module, "groups", 1) == getattr(module, "in_channels", 0)
    last = isinstance(module, (nn.Linear, nn.LayerNorm))
    axis = len(given) - 1 if last else 1
    into = out if tied else widths.column(name, "in")
    wide_in, wide_out = given[axis], output[len(output) - 1 if last else 1]
    folds = 1 if tied else getattr(module, "groups", 1)
    return TimedLayer(
        name,
        _words(module, [size for place, size in enumerate(given) if place != axis]),
        into,
        out,
        _grid(wide_in, folds, shrinks.get(into, False)),
        _grid(wide_out, folds, shrinks.get(out, False)),
        output.numel() / wide_out,
        lambda i, o: (_copy(module, i, o).eval(), torch.zeros(*given[:axis], i, *given[axis + 1 :])),
    )


def _grid(width: int, folds: int, shrinks: bool) -> tuple[int, ...]:
    each = width // folds
    return tuple(sorted({max(1, round(each * share)) * folds for share in SHARES})) if shrinks else (width,)


def _words(module: nn.Module, sizes: list[int]) -> str:
    known = ("kernel_size", "stride", "padding", "dilation")
    words = [type(module).__name__, *(f"{name} {getattr(module, name)}" for name in known if hasattr(module, name))]
    groups, into = getattr(module, "groups", 1), getattr(module, "in_channels", 0)
    words += ["depthwise"] if 1 < groups == into else [f"groups {groups}"] if groups > 1 else []
    words += ["bias"] if getattr(module, "bias", None) is not None else []
    return f"{', '.join(words)} on {'x'.join(map(str, sizes))}"


def _copy(module: nn.Module, into: int, out: int) -> nn.Module:
    """A layer of the same kind with other widths, on the CPU; a tied one has `out` channels on both sides."""
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return nn.Linear(into, out, bias)
    if isinstance(module, nn.LayerNorm):
        return nn.LayerNorm(out, module.eps, module.elementwise_affine)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return type(module)(out, module.eps, module.momentum, module.affine, module.track_running_stats)
    conv: Any = module  # of KINDS there are convolutions left, whose stubs differ by dimension
    tied = 1 < conv.groups == conv.in_channels
    groups, inputs = (out, out) if tied else (conv.groups, into)
    copied: nn.Module = type(conv)(
        inputs, out, conv.kernel_size, conv.stride, conv.padding, conv.dilation, groups, bias
    )  # fmt: skip
    return copied
