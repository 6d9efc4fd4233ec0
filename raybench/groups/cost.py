"""MACs and parameters of a pruned network as exact functions of how many units each group keeps.

Every counted operation is a product of two widths and a constant (a convolution's outputs x inputs x kernel x
pixels, an attention's width x tokens^2), and a width is a sum of kept units times positions per unit. One forward
pass of the unpruned model fixes the constants; every pruned shape is then computed by arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raybench.errors import NotSupported
from raybench.groups.attention import attentions, plainly
from raybench.groups.layer_types import CONVOLUTIONS, TRANSPOSED
from raybench.groups.records import Groups
from raybench.groups.widths import Widths


@dataclass(frozen=True)
class Terms:
    """A sum of products: sum_t factor[t] * width[left[t]] * width[right[t]] / divisor[t], plus a constant."""

    factor: np.ndarray  # (t,) float64 holding integers
    left: np.ndarray  # (t,) int64, columns of a width table
    right: np.ndarray  # (t,)
    divisor: np.ndarray  # (t,)
    constant: float = 0.0

    def total(self, widths: np.ndarray) -> np.ndarray:
        """Evaluate at `widths`, (..., sides) -> (...,); exact while the sums stay below 2**53."""
        return (widths[..., self.left] * widths[..., self.right]) @ (self.factor / self.divisor) + self.constant


@dataclass(frozen=True)
class Cost:
    """MACs per image and parameters of one model, as functions of the kept counts (int array, one per group)."""

    widths: Widths
    mac_terms: Terms
    param_terms: Terms
    sizes: np.ndarray  # (groups,) units of each group before any cut
    macs_base: int
    params_base: int

    @classmethod
    def measure(cls, model: nn.Module, example: Tensor, groups: Groups) -> Cost:
        """Run `model` once on the first image of `example` and record what each layer costs. `model` isn't changed.

        Raises:
            NotSupported: an operation outside the known layers multiplies matrices, so that its cost after a cut
                can't be predicted; names the modules.
        """
        calls, counted, by_module = _calls(model, example[:1])
        widths = Widths.of(model, groups)
        macs, params = _terms(model, calls, widths)
        sizes = np.array([group.size for group in groups], dtype=np.int64)
        full = widths.at(sizes)
        base = round(float(macs.total(full)))
        if base != counted:
            unknown = _unknown_products(model, by_module)
            if counted < base or not unknown or not all(_holds_one(name, groups.protected) for name in unknown):
                raise NotSupported(
                    f"can't predict the cost of {type(model).__name__}: its known layers make {base:,} MACs, torch "
                    f"counts {counted:,}; look at {', '.join(unknown[:5]) or 'its own forward'}"
                )
            # products between outputs of layers that keep their width (YOLO's and torch's attention) are constant
            macs, base = replace(macs, constant=float(counted - base)), counted
        numel = sum(p.numel() for p in model.parameters())
        params = Terms(params.factor, params.left, params.right, params.divisor, numel - float(params.total(full)))
        return cls(widths, macs, params, sizes, base, numel)

    def macs(self, kept: np.ndarray) -> np.ndarray:
        """MACs per image at `kept` units per group: (..., groups) -> (...,) float64 holding integers."""
        return self.mac_terms.total(self.widths.at(kept))

    def params(self, kept: np.ndarray) -> np.ndarray:
        """Parameters at `kept` units per group: (..., groups) -> (...,)."""
        return self.param_terms.total(self.widths.at(kept))


def count_macs(model: nn.Module, example: Tensor) -> int:
    """MACs per image by torch's FLOP counter (half its FLOPs), fused attention off; the model isn't changed."""
    return _counted(model, example[:1])[0]


def _counted(model: nn.Module, image: Tensor) -> tuple[int, dict[str, int]]:
    with plainly(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    by_module = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return counter.get_total_flops() // 2, by_module


def _calls(model: nn.Module, image: Tensor) -> tuple[Counter[str], int, dict[str, int]]:
    """Pixels (or tokens, or window-tokens squared) that each layer is applied to, and torch's own MACs."""
    calls: Counter[str] = Counter()
    heads = attentions(model)

    def pixels(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in heads:
            batch, tokens, _ = inputs[0].shape
            calls[name] += batch * tokens**2
        elif isinstance(module, nn.Linear):
            calls[name] += output.numel() // output.shape[-1]
        else:
            grid = inputs[0] if isinstance(module, TRANSPOSED) else output
            calls[name] += grid.shape[2:].numel() * grid.shape[0]

    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: pixels(name, m, i, o))
        for name, module in model.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) or name in heads
    ]
    try:
        counted, by_module = _counted(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, counted, by_module


def _terms(model: nn.Module, calls: Counter[str], widths: Widths) -> tuple[Terms, Terms]:
    """(MACs, params) as sums of products; params cover every layer that has a member in a group."""
    macs, params = [], []
    one = widths.column("", "one")
    for name, module in model.named_modules():
        out, into = widths.column(name, "out"), widths.column(name, "in")
        if isinstance(module, CONVOLUTIONS):
            kernel = int(np.prod(module.kernel_size))
            depthwise = module.groups > 1 and module.groups == module.out_channels
            right, groups = (one, 1) if depthwise else (into, module.groups)
            scale = module.in_channels // module.groups if depthwise else 1
            macs.append((calls[name] * kernel * scale, out, right, groups))
            params.append((kernel * scale, out, right, groups))
            if module.bias is not None:
                params.append((1, out, one, 1))
        elif isinstance(module, nn.Linear):
            macs.append((calls[name], out, into, 1))
            params.append((1, out, into, 1))
            if module.bias is not None:
                params.append((1, out, one, 1))
        elif name in widths.members and widths.members[name].kind == "norm":
            params.append((sum(p is not None for p in module._parameters.values()), out, one, 1))
    for name in attentions(model):  # q @ k^T and attn @ v, each tokens^2 x attention width
        macs.append((2 * calls[name], widths.column(f"{name}.proj", "in"), one, 1))
    for name, member in widths.members.items():
        if member.kind == "parameter":
            params.append((model.get_parameter(name).numel() // member.width, widths.column(name, "out"), one, 1))
    return _table(macs), _table(params)


def _table(rows: list[tuple[int, int, int, int]]) -> Terms:
    factor, left, right, divisor = (np.array(column) for column in zip(*rows, strict=True))
    return Terms(factor.astype(float), left, right, divisor.astype(float))


def _unknown_products(model: nn.Module, by_module: dict[str, int]) -> list[str]:
    """Modules in which torch counted products that no known layer at or below them accounts for."""
    known = set(attentions(model)) | {n for n, m in model.named_modules() if isinstance(m, (*CONVOLUTIONS, nn.Linear))}
    inner = {n.partition(".")[2]: flops for n, flops in by_module.items() if "." in n}
    own = Counter(inner)
    for name, flops in inner.items():
        parts = name.split(".")
        above = next((p for k in range(len(parts) - 1, 0, -1) if (p := ".".join(parts[:k])) in inner), None)
        if above is not None:  # lists of modules are never called, so the nearest counted module above is taken
            own[above] -= flops
    return [name for name in inner if name not in known and own[name] > 0]


def _holds_one(name: str, layers: Sequence[str]) -> bool:
    """Whether `name` is one of `layers` or contains one of them."""
    return any(layer == name or layer.startswith(f"{name}.") for layer in layers)
