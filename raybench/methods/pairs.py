"""Squared distances between a layer's filters, computed once and updated as channels are removed.

||a - b||^2 is a sum over input channels. Removed inputs are subtracted from it, removed filters dropped, so a whole
schedule reads every weight about twice, however many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 192  # rows processed at a time, so that their data stays in the cache
DEPTH = 512  # weights of a filter processed at a time
FULL = 0.85  # share of remaining filters below which the removed ones are dropped from memory

Value = Callable[[Tensor], Tensor]  # squared distances -> values of the pairs, element by element; may work in place


class FilterDistances:
    """Squared distances between one layer's filters; only blocks on and above the diagonal are stored.

    They are float64: subtraction then leaves an absolute error below 1e-7 of the norms, for equal filters too.
    The values of pairs and their sums are float32: half the bytes, and a square root costs a quarter.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: (filters, inputs, ...) or (filters, inputs); it is read again whenever inputs are removed."""
        self._weight = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
        self._centre = self._weight.mean(0, dtype=torch.float64)  # centred weights lose fewer digits
        self._rows = torch.arange(len(weight), device=weight.device)  # stored filters, some removed ones among them
        self._inputs = torch.ones(self._weight.shape[1], dtype=torch.bool, device=weight.device)
        self._squares = weight.new_zeros(len(weight), len(weight), dtype=torch.float64)
        each = max(1, DEPTH // self._weight.shape[2])
        for part, centre in zip(self._weight.split(each, 1), self._centre.split(each), strict=True):
            left, right = _share(part, centre)
            for start in range(0, len(weight), BLOCK):
                self._squares[start : start + BLOCK, start:].addmm_(left[start : start + BLOCK], right[:, start:])

    def sums(self, value: Value, filters: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """(filters,) float64: sum of `value` of the squared distance over the other remaining filters; 0 for removed.

        `filters` and `inputs`: (filters,) and (inputs,) bool, the remaining ones (None: all). A removed one may not
        come back in a later call.
        """
        alive = self._stored_alive(filters)
        removed = self._newly_removed(inputs)
        change = None if removed is None else _share(self._weight[self._rows[:, None], removed], self._centre[removed])
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

    def _stored_alive(self, filters: Tensor | None) -> Tensor:
        """Which of the stored filters remain; drops the removed ones from memory when there are too many."""
        alive = (
            torch.ones_like(self._rows, dtype=torch.bool)
            if filters is None
            else filters.to(self._rows.device)[self._rows]
        )
        if int(alive.sum()) >= FULL * len(alive):
            return alive
        left = alive.nonzero().squeeze(1)
        for start in range(0, len(left), BLOCK):  # in place: each block is read before it is overwritten
            rows, columns = left[start : start + BLOCK], left[start:]
            block = self._squares.index_select(0, rows).index_select(1, columns)
            corner = torch.minimum(rows[:, None], rows), torch.maximum(rows[:, None], rows)
            block[:, : len(rows)] = self._squares[corner]  # its lower half may not have been stored before
            self._squares[start : start + len(rows), start : len(left)] = block
        self._squares = self._squares[: len(left), : len(left)]
        self._rows = self._rows[alive]
        return alive[alive]

    def _newly_removed(self, inputs: Tensor | None) -> Tensor | None:
        """Indices of the inputs removed since the last call; None if there are none."""
        if inputs is None or not bool((removed := self._inputs & ~inputs.to(self._inputs.device)).any()):
            return None
        self._inputs = self._inputs & ~removed
        return removed.nonzero().squeeze(1)


def _share(weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is the share of some inputs in every squared distance: |a|^2 + |b|^2 - 2ab.

    `weight`: (filters, inputs, taps). `centre`: (inputs, taps), subtracted first, which changes no distance.
    """
    part = (weight.double() - centre).flatten(1)
    length, one = part.square().sum(1, keepdim=True), part.new_ones(len(part), 1)
    return torch.cat([part * -2, length, one], 1), torch.cat([part, one, length], 1).t()
