"""Matrix products of a network: counted by torch, and those outside known layers as a function of kept units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raybench.groups.attention import plainly
from raybench.groups.restored import gradients

FEW = 4  # groups that are not halved again
NEAR = 3  # groups after each other that may multiply with each other

Excess = Callable[[np.ndarray], int]  # kept units of every group -> MACs that no known layer accounts for


def counted_macs(model: nn.Module, image: Tensor) -> tuple[int, dict[str, int]]:
    """(MACs of one forward pass, MACs by module) by torch's FLOP counter; the model isn't changed.

    Attention is computed by the math kernel, since torch counts no products of the fused kernel for CPUs. Every
    query is multiplied with every key: a causal mask saves nothing. No parameter requires a gradient meanwhile: the
    counter fails on one that a module is called with.
    """
    with (
        plainly(model), gradients(model, False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # fmt: skip
        model(image)
    by_module = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return counter.get_total_flops() // 2, by_module


@dataclass(frozen=True)
class Products:
    """MACs outside known layers: constant + sum over some groups of linear * kept + square * kept**2, + products.

    Queries times keys is linear in the width of a head; a product of channels with channels is quadratic, and keys
    times values (linear attention) a product of two groups' widths.
    """

    constant: float
    groups: np.ndarray  # (g,) int64, the groups whose widths count
    linear: np.ndarray  # (g,) float64
    square: np.ndarray  # (g,)
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))  # groups whose widths multiply
    each: np.ndarray = field(default_factory=lambda: np.zeros(0))  # MACs for each product of a pair's units

    @classmethod
    def fixed(cls, constant: float = 0.0) -> Products:
        """Products that no cut changes."""
        return cls(constant, np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))

    @classmethod
    def fitted(cls, excess: Excess, sizes: np.ndarray, least: np.ndarray) -> Products | None:
        """The function that agrees with `excess`; None if two random cuts show that it has another form.

        Args:
            excess: counts a network that keeps the given units of each group.
            sizes: (groups,) units before any cut.
            least: (groups,) units that always stay.
        """
        rng = np.random.default_rng(0)
        some, whole = [rng.integers(least, sizes + 1) for _ in range(2)], excess(sizes)
        found = [excess(kept) for kept in some]
        fit = cls.fixed(whole) if set(found) == {whole} else cls._by_group(excess, sizes, least, whole)
        if fit._agrees(some, found):
            return fit
        several = [np.minimum(sizes, np.maximum(kept, 2)) for kept in some]  # an einsum over one is no matrix product
        found = [excess(kept) for kept in several]
        for better in (fit, fit._with_pairs(excess, sizes, least)):
            if better._agrees(several, found):
                return better
        return None

    def _agrees(self, cuts: Sequence[np.ndarray], found: Sequence[int]) -> bool:
        return [float(self.total(kept)) for kept in cuts] == list(found)

    def _with_pairs(self, excess: Excess, sizes: np.ndarray, least: np.ndarray) -> Products:
        """The same with products of the widths of neighbouring groups, such as an attention's keys and values."""
        matter, pairs, each = self.groups.tolist(), [], []
        middle = (sizes + least) // 2

        @functools.cache
        def count(*cut: int) -> Fraction:
            kept = sizes.copy()
            kept[list(cut)] = middle[list(cut)]
            return Fraction(excess(kept))

        for k, left in enumerate(matter):
            for right in matter[k + 1 : k + 1 + NEAR]:
                twisted = count(left, right) - count(left) - count(right) + count()
                if twisted:
                    steps = [int(middle[g] - sizes[g]) for g in (left, right)]
                    pairs.append((left, right))
                    each.append(float(twisted / (steps[0] * steps[1])))
        if not pairs:
            return self
        constant, linear = self.constant, self.linear.copy()
        for (left, right), weight in zip(pairs, each, strict=True):  # parabolas were taken at the other's full width
            linear[matter.index(left)] -= weight * sizes[right]
            linear[matter.index(right)] -= weight * sizes[left]
            constant += weight * float(sizes[left]) * float(sizes[right])
        return Products(constant, self.groups, linear, self.square, np.array(pairs, dtype=np.int64), np.array(each))

    @classmethod
    def _by_group(cls, excess: Excess, sizes: np.ndarray, least: np.ndarray, whole: int) -> Products:
        """Cut one group at a time; a parabola goes through three counts."""
        constant, rows = Fraction(whole), []
        for group in _that_matter(excess, sizes, least, whole, list(range(len(sizes)))):
            size, fewest = int(sizes[group]), int(least[group])
            fewest = min(size, max(2, fewest))  # an einsum over an axis of one is no matrix product

            def slope(units: int, group: int = group, size: int = size) -> Fraction:
                kept = sizes.copy()
                kept[group] = units
                return Fraction(excess(kept) - whole, units - size)

            if size == fewest or not (first := slope(middle := (size + fewest) // 2)):
                continue
            square = (slope(fewest) - first) / (fewest - middle) if fewest < middle else Fraction(0)
            linear = first - square * (size + middle)
            constant -= linear * size + square * size**2
            rows.append((group, float(linear), float(square)))
        if not rows:
            return cls.fixed(whole)
        return cls(float(constant), *(np.array(column) for column in zip(*rows, strict=True)))

    def total(self, kept: np.ndarray) -> np.ndarray | float:
        """MACs at `kept` units per group: (..., groups) -> (...,) float64 holding integers."""
        if not len(self.groups):
            return self.constant
        kept = np.asarray(kept, dtype=float)
        units, together = kept[..., self.groups], kept[..., self.pairs[:, 0]] * kept[..., self.pairs[:, 1]]
        return np.rint(units @ self.linear + units**2 @ self.square + together @ self.each + self.constant)


def _that_matter(excess: Excess, sizes: np.ndarray, least: np.ndarray, whole: int, groups: list[int]) -> list[int]:
    """Those of `groups` whose widths may change `excess`, found by halves: no count grows when a group shrinks."""
    kept = sizes.copy()
    kept[groups] = least[groups]
    if not groups or excess(kept) == whole:
        return []
    if len(groups) <= FEW:  # the parabola's counts decide the rest
        return groups
    middle = len(groups) // 2
    found = _that_matter(excess, sizes, least, whole, groups[:middle])
    return found + _that_matter(excess, sizes, least, whole, groups[middle:])
