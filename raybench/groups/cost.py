"""MACs and parameters of a pruned network as exact functions of how many units each group keeps.

Every counted operation is a product of two widths and a constant (a convolution's outputs x inputs x kernel x
pixels, an attention's width x tokens^2), and a width is a sum of kept units times positions per unit. One forward
pass of the unpruned model fixes the constants; every pruned shape is then computed by arithmetic. What no known layer
accounts for, as the products of a network's own attention, is counted at a few cuts (`products`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.attention import Attention, attentions
from raybench.groups.calls import Calls, lengthwise
from raybench.groups.layer_types import CONVOLUTIONS
from raybench.groups.products import Products, counted_macs
from raybench.groups.records import Groups
from raybench.groups.shell import Shell
from raybench.groups.widths import Widths


@dataclass(frozen=True)
class Terms:
    """A sum of products of widths: sum_t factor[t] * left[t] * right[t] * rows[t] / divisor[t], plus a constant."""

    factor: np.ndarray  # (t,) float64 holding integers
    left: np.ndarray  # (t,) int64, columns of a width table
    right: np.ndarray  # (t,)
    rows: np.ndarray  # (t,), the width on which the number of rows depends; mostly the constant 1
    divisor: np.ndarray  # (t,)
    constant: float = 0.0
    layers: tuple[str, ...] = ()  # (t,) the module or parameter that each product is of

    def within(self, module: str) -> Terms:
        """The products of what lies at or below `module`, without the constant."""
        own = [i for i, layer in enumerate(self.layers) if layer == module or layer.startswith(f"{module}.")]
        layers = tuple(self.layers[i] for i in own)
        return Terms(
            self.factor[own], self.left[own], self.right[own], self.rows[own], self.divisor[own], layers=layers
        )

    def total(self, widths: np.ndarray) -> np.ndarray:
        """Evaluate at `widths`, (..., sides) -> (...,); exact while the sums stay below 2**53."""
        products = widths[..., self.left] * widths[..., self.right] * widths[..., self.rows]
        return products @ (self.factor / self.divisor) + self.constant


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
        calls = Calls.of(model, example[:1], heads)
        macs_base, widths = calls.macs, Widths.of(model, groups)
        rows = lengthwise(model, example, groups, widths, heads, calls)
        sizes = np.array([group.size for group in groups], dtype=np.int64)
        full = widths.at(sizes)
        macs, params = _terms(model, calls.pixels, widths, heads, rows, full)
        if round(float(macs.total(full))) > macs_base:  # they have these layers, but multiply otherwise
            macs, params = _terms(model, calls.pixels, widths, {}, rows, full)
        products = Products.fixed()
        if (base := round(float(macs.total(full)))) != macs_base:
            fitted = _outside(model, example, groups, macs, widths) if base < macs_base else None
            if fitted is None:
                unknown = _unknown_products(model, calls.by_module)
                raise NotSupported(
                    f"can't predict the cost of {type(model).__name__}: its known layers make {base:,} MACs, torch "
                    f"counts {macs_base:,}; look at {', '.join(unknown[:5]) or 'its own forward'}"
                )
            products = fitted
        numel = params_of(model)
        params = replace(params, constant=numel - float(params.total(full)))
        return cls(widths, macs, params, products, sizes, macs_base, numel)

    def macs(self, kept: np.ndarray) -> np.ndarray:
        """MACs per image at `kept` units per group: (..., groups) -> (...,) float64 holding integers."""
        return self.mac_terms.total(self.widths.at(kept)) + self.products.total(kept)

    def params(self, kept: np.ndarray) -> np.ndarray:
        """Parameters at `kept` units per group: (..., groups) -> (...,)."""
        return self.param_terms.total(self.widths.at(kept))

    def within(self, module: str, params: int) -> Cost | None:
        """What `module`, which holds `params` parameters, costs in the network, as a function of the same counts.

        None where the network multiplies outside its known layers: then no module's share is known.
        """
        full = self.widths.at(self.sizes)
        macs, own = self.mac_terms.within(module), self.param_terms.within(module)
        if round(float(self.mac_terms.total(full))) != self.macs_base:
            return None
        own = replace(own, constant=params - float(own.total(full)))
        return replace(
            self, mac_terms=macs, param_terms=own, macs_base=round(float(macs.total(full))), params_base=params
        )


def count_macs(model: nn.Module, example: Tensor) -> int:
    """MACs per image by torch's FLOP counter (half its FLOPs), those of attention included; the model isn't changed."""
    return counted_macs(model, example[:1])[0]


def params_of(model: nn.Module) -> int:
    """How many parameters `model` has."""
    return sum(p.numel() for p in model.parameters())


def _outside(model: nn.Module, example: Tensor, groups: Groups, known: Terms, widths: Widths) -> Products | None:
    """The MACs outside known layers as a function of kept units; None if they follow no known form."""
    shell = Shell.of(model, example, groups, count_macs)

    def excess(kept: np.ndarray) -> int:
        return shell.cut([np.arange(units) for units in kept]) - round(float(known.total(widths.at(kept))))

    sizes, least = (np.array([getattr(group, name) for group in groups], dtype=np.int64) for name in ("size", "least"))
    return Products.fitted(excess, sizes, least)


def _terms(
    model: nn.Module,
    calls: Counter[str],
    widths: Widths,
    heads: Mapping[str, Attention],
    rows: Mapping[str, int],
    full: np.ndarray,
) -> tuple[Terms, Terms]:
    """(MACs, params) as sums of products; params cover every layer that has a member in a group.

    `rows`: layer -> column of the width on which its number of rows depends; `full`: all widths before a cut.
    """
    macs, params = [], []
    one = widths.column("", "one")
    calls = Counter({name: round(count / full[rows.get(name, one)]) for name, count in calls.items()})
    for name, module in model.named_modules():
        out, into = widths.column(name, "out"), widths.column(name, "in")
        if isinstance(module, CONVOLUTIONS):
            kernel = int(np.prod(module.kernel_size))
            depthwise = 1 < module.groups == module.in_channels  # its outputs follow its inputs
            right, groups = (one, 1) if depthwise else (into, module.groups)
            macs.append((name, calls[name] * kernel, out, right, rows.get(name, one), groups))
            params.append((name, kernel, out, right, one, groups))
            if module.bias is not None:
                params.append((name, 1, out, one, one, 1))
        elif isinstance(module, nn.Linear):
            macs.append((name, calls[name], out, into, rows.get(name, one), 1))
            params.append((name, 1, out, into, one, 1))
            if module.bias is not None:
                params.append((name, 1, out, one, one, 1))
        elif name in widths.members and widths.members[name].kind == "norm":
            params.append((name, sum(p is not None for p in module._parameters.values()), out, one, one, 1))
    for name in heads:  # q @ k^T and attn @ v, each tokens^2 x attention width
        macs.append((name, 2 * calls[name], widths.column(f"{name}.proj", "in"), one, rows.get(name, one), 1))
    for name, member in widths.members.items():
        if member.kind == "parameter":
            out, into = widths.column(name, "out"), widths.column(name, "in")
            each = round(model.get_parameter(name).numel() / (full[out] * full[into]))
            params.append((name, each, out, into, one, 1))
    return _table(macs), _table(params)


def _table(terms: list[tuple[str, int, int, int, int, int]]) -> Terms:
    layers, factor, left, right, rows, divisor = zip(*terms, strict=True)
    columns = (np.array(left), np.array(right), np.array(rows), np.array(divisor, dtype=float))
    return Terms(np.array(factor, dtype=float), *columns, layers=layers)


def _unknown_products(model: nn.Module, by_module: Mapping[str, int]) -> list[str]:
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
