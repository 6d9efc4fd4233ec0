"""MACs and parameters of a pruned network as exact functions of how many units each group keeps.

Every counted operation is a product of two widths and a constant (a convolution's outputs x inputs x kernel x
pixels, an attention's width x tokens^2), and a width is a sum of kept units times positions per unit. One forward
pass of the unpruned model fixes the constants; every pruned shape is then computed by arithmetic. What no known layer
accounts for, as the products of a network's own attention, is counted at a few cuts (`products`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.attention import Attention, attentions
from raybench.groups.layer_types import CONVOLUTIONS, TRANSPOSED
from raybench.groups.products import Products, counted
from raybench.groups.records import Groups
from raybench.groups.shell import Shell
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
    mac_terms: Terms  # of known layers
    param_terms: Terms
    products: Products  # of everything else
    sizes: np.ndarray  # (groups,) units of each group before any cut
    macs_base: int
    params_base: int

    @classmethod
    def measure(cls, model: nn.Module, example: Tensor, groups: Groups) -> Cost:
        """Run `model` once on the first image of `example` and record what each layer costs. `model` isn't changed.

        Raises:
            NotSupported: an operation outside the known layers multiplies matrices, and its cost after a cut can't be
                predicted; names the modules.
        """
        heads = attentions(model)
        calls, macs_base, by_module = _calls(model, example[:1], heads)
        widths = Widths.of(model, groups)
        sizes = np.array([group.size for group in groups], dtype=np.int64)
        full = widths.at(sizes)
        macs, params = _terms(model, calls, widths, heads)
        if round(float(macs.total(full))) > macs_base:  # they have these layers, but multiply otherwise
            macs, params = _terms(model, calls, widths, {})
        products = Products.fixed()
        if (base := round(float(macs.total(full)))) != macs_base:
            fitted = _outside(model, example, groups, macs, widths) if base < macs_base else None
            if fitted is None:
                unknown = _unknown_products(model, by_module)
                raise NotSupported(
                    f"can't predict the cost of {type(model).__name__}: its known layers make {base:,} MACs, torch "
                    f"counts {macs_base:,}; look at {', '.join(unknown[:5]) or 'its own forward'}"
                )
            products = fitted
        numel = sum(p.numel() for p in model.parameters())
        params = Terms(params.factor, params.left, params.right, params.divisor, numel - float(params.total(full)))
        return cls(widths, macs, params, products, sizes, macs_base, numel)

    def macs(self, kept: np.ndarray) -> np.ndarray:
        """MACs per image at `kept` units per group: (..., groups) -> (...,) float64 holding integers."""
        return self.mac_terms.total(self.widths.at(kept)) + self.products.total(kept)

    def params(self, kept: np.ndarray) -> np.ndarray:
        """Parameters at `kept` units per group: (..., groups) -> (...,)."""
        return self.param_terms.total(self.widths.at(kept))


def count_macs(model: nn.Module, example: Tensor) -> int:
    """MACs per image by torch's FLOP counter (half its FLOPs), those of attention included; the model isn't changed."""
    return counted(model, example[:1])[0]


def _outside(model: nn.Module, example: Tensor, groups: Groups, known: Terms, widths: Widths) -> Products | None:
    """The MACs outside known layers as a function of kept units; None if they follow no known form."""
    shell = Shell.of(model, example, groups, count_macs)

    def excess(kept: np.ndarray) -> int:
        return shell.cut([np.arange(units) for units in kept]) - round(float(known.total(widths.at(kept))))

    sizes, least = (np.array([getattr(group, name) for group in groups], dtype=np.int64) for name in ("size", "least"))
    return Products.fitted(excess, sizes, least)


def _calls(model: nn.Module, image: Tensor, heads: Mapping[str, Attention]) -> tuple[Counter[str], int, dict[str, int]]:
    """Pixels (or tokens, or window-tokens squared) that each layer is applied to, and torch's own MACs."""
    calls: Counter[str] = Counter()

    def pixels(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in heads:
            batch, *tokens, _ = inputs[0].shape
            calls[name] += batch * int(np.prod(tokens)) ** 2
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
        macs, by_module = counted(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, macs, by_module


def _terms(
    model: nn.Module, calls: Counter[str], widths: Widths, heads: Mapping[str, Attention]
) -> tuple[Terms, Terms]:
    """(MACs, params) as sums of products; params cover every layer that has a member in a group."""
    macs, params = [], []
    one = widths.column("", "one")
    for name, module in model.named_modules():
        out, into = widths.column(name, "out"), widths.column(name, "in")
        if isinstance(module, CONVOLUTIONS):
            kernel = int(np.prod(module.kernel_size))
            depthwise = module.groups > 1 and module.groups in (module.out_channels, module.in_channels)
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
    for name in heads:  # q @ k^T and attn @ v, each tokens^2 x attention width
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
