"""A layer's filters compared pair by pair, from their inner products: made once, then followed as channels go.

||a - b||^2 = ||a||^2 + ||b||^2 - 2ab, and ab is a sum over input channels. Inputs that go are subtracted from the
products, filters that go leave them, so a whole schedule reads every weight about twice, however many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 64  # rows of the products that are worked on at a time: what belongs to them stays in the cache
FULL = 0.75  # share of living filters below which the dead ones are taken out

Value = Callable[[Tensor], Tensor]  # squared distances -> what a pair is worth, element by element; may work in place


class FilterProducts:
    """Inner products of one layer's filters in float64; only blocks on and above the diagonal are kept.

    In float64 the cancellation leaves an absolute error below 1e-7 of the norms, duplicates included.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: (filters, inputs, ...), read again whenever inputs go; (filters, d) for d inputs."""
        self._weight = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
        self._centre = self._weight.double().mean(0)  # distances don't change, the numbers that cancel get smaller
        self.rows = torch.arange(len(weight), device=weight.device)  # filters that are held, dead ones among them
        self._alive = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        self._inputs = torch.ones(self._weight.shape[1], dtype=torch.bool, device=weight.device)
        self._products = weight.new_zeros(len(weight), len(weight), dtype=torch.float64)
        self._add(self._inputs, 1)

    def follow(self, filters: Tensor, inputs: Tensor | None) -> None:
        """Only `filters` (bool, all filters) and `inputs` (bool, all inputs; None: every one) are left now."""
        if inputs is not None and bool((gone := self._inputs & ~inputs).any()):
            self._add(gone, -1)
            self._inputs = self._inputs & inputs
        self._alive = filters[self.rows]
        if int(self._alive.sum()) < FULL * len(self.rows):
            held = self._products[self._alive][:, self._alive]
            self._products = held.triu() + held.triu(1).t()  # blocks begin elsewhere now: fill their lower corners
            self.rows, self._alive = self.rows[self._alive], self._alive[self._alive]

    def sums(self, value: Value) -> Tensor:
        """(held filters,) float64: sum over the living others of `value` of the squared distance; 0 for the dead."""
        lengths = self._products.diagonal().masked_fill(~self._alive, -torch.inf)  # ends up at distance 0
        total = torch.zeros_like(lengths)
        for start in range(0, len(lengths), BLOCK):
            rows = slice(start, start + BLOCK)
            squares = lengths[rows, None] + lengths[start:]
            values = value(squares.sub_(self._products[rows, start:], alpha=2).clamp_(min=0))
            total[rows] += values.sum(1)
            total[rows.stop :] += values[:, BLOCK:].sum(0)
        return total

    def _add(self, inputs: Tensor, sign: int) -> None:
        """Add or take away the share of `inputs` in every product."""
        part = (self._weight[:, inputs].double() - self._centre[inputs]).flatten(1)[self.rows]
        for start in range(0, len(part), BLOCK):
            block = self._products[start : start + BLOCK, start:]
            block.addmm_(part[start : start + BLOCK], part[start:].t(), alpha=sign)
