"""A layer's filters compared pair by pair, from squared distances: made once, then followed as channels go.

||a - b||^2 is a sum over input channels. Inputs that go are subtracted from it, filters that go leave it, so a whole
schedule reads every weight about twice, however many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 192  # rows that are worked on at a time: what belongs to them stays in the cache
DEPTH = 512  # weights of a filter that are worked on at a time
FULL = 0.85  # share of living filters below which the dead ones are taken out

Value = Callable[[Tensor], Tensor]  # squared distances -> what a pair is worth, element by element; may work in place


class FilterDistances:
    """Squared distances between one layer's filters; only blocks on and above the diagonal are kept.

    They are held in float64, where what is subtracted leaves an absolute error below 1e-7 of the norms, duplicates
    included. What a pair is worth and its sums are float32: half the bytes, and the root costs a quarter.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: (filters, inputs, ...), read again whenever inputs go; (filters, d) for d inputs."""
        self._weight = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
        self._centre = self._weight.mean(0, dtype=torch.float64)  # smaller numbers cancel better
        self._rows = torch.arange(len(weight), device=weight.device)  # filters that are held, dead ones among them
        self._inputs = torch.ones(self._weight.shape[1], dtype=torch.bool, device=weight.device)
        self._squares = weight.new_zeros(len(weight), len(weight), dtype=torch.float64)
        each = max(1, DEPTH // self._weight.shape[2])
        for part, centre in zip(self._weight.split(each, 1), self._centre.split(each), strict=True):
            left, right = _share(part, centre)
            for start in range(0, len(weight), BLOCK):
                self._squares[start : start + BLOCK, start:].addmm_(left[start : start + BLOCK], right[:, start:])

    def sums(self, value: Value, filters: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """(filters,) float64: sum over the living others of `value` of the squared distance; 0 for the dead.

        `filters` and `inputs`: (filters,) and (inputs,) bool, what is left (None: all). Both only ever shrink.
        """
        alive = self._held(filters)
        gone = self._gone(inputs)
        change = None if gone is None else _share(self._weight[self._rows[:, None], gone], self._centre[gone])
        total, weights = self._squares.new_zeros(len(alive)), alive.float()
        room = torch.empty(BLOCK * len(alive), dtype=torch.float32, device=total.device)
        for start in range(0, len(alive), BLOCK):
            rows, block = slice(start, start + BLOCK), self._squares[start : start + BLOCK, start:]
            if change is not None:
                block.addmm_(change[0][rows], change[1][:, start:], alpha=-1)
            values = value(room[: block.numel()].view_as(block).copy_(block).clamp_(min=0).fill_diagonal_(0))
            total[rows] += values @ weights[start:]
            total[rows.stop :] += weights[rows] @ values[:, BLOCK:]
        return self._squares.new_zeros(len(self._weight)).index_copy_(0, self._rows, total * alive)

    def _held(self, filters: Tensor | None) -> Tensor:
        """Which of the held filters live; holds the living alone when too many have died."""
        alive = (
            torch.ones_like(self._rows, dtype=torch.bool)
            if filters is None
            else filters.to(self._rows.device)[self._rows]
        )
        if int(alive.sum()) >= FULL * len(alive):
            return alive
        left = alive.nonzero().squeeze(1)
        for start in range(0, len(left), BLOCK):  # in place: what is read lies behind what is written
            rows, columns = left[start : start + BLOCK], left[start:]
            block = self._squares.index_select(0, rows).index_select(1, columns)
            corner = torch.minimum(rows[:, None], rows), torch.maximum(rows[:, None], rows)
            block[:, : len(rows)] = self._squares[corner]  # its lower half may have lain in no block before
            self._squares[start : start + len(rows), start : len(left)] = block
        self._squares = self._squares[: len(left), : len(left)]
        self._rows = self._rows[alive]
        return alive[alive]

    def _gone(self, inputs: Tensor | None) -> Tensor | None:
        """Indices of the inputs that have gone since the last call."""
        if inputs is None or not bool((gone := self._inputs & ~inputs.to(self._inputs.device)).any()):
            return None
        self._inputs = self._inputs & ~gone
        return gone.nonzero().squeeze(1)


def _share(weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is the share of some inputs in every squared distance: la + lb - 2ab.

    `weight`: (filters, inputs, taps). `centre`: (inputs, taps), taken off first: distances stay what they are.
    """
    part = (weight.double() - centre).flatten(1)
    length, one = part.square().sum(1, keepdim=True), part.new_ones(len(part), 1)
    return torch.cat([part * -2, length, one], 1), torch.cat([part, one, length], 1).t()
