"""Lookahead: a filter's weights, weighed by what feeds their inputs and by what reads the filter's output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import Layer, NeighbourImportance
from raybench.registry import importance


@importance("lookahead")
@dataclass(frozen=True)
class Lookahead(NeighbourImportance):
    """Sum over a filter of w^2 P N, P the energy of what feeds w's input, N of what reads its output.

    Park et al., section 2 (LAP, squared) and its form for batch norms: P sums the squared weights of the previous
    layer's filter for that input, N those of the next layer's slice for that output, each times the squared scale of
    the batch norm between. Several neighbours add up, an identity shortcut adds 1, a missing neighbour is 1. The
    authors score single weights; here a filter's are added up. Filters alone are scored, not input slices.
    """

    needs = "weights"
    neighbours = True
    version = 2
    paper = "Park et al., Lookahead: A far-sighted alternative of magnitude-based pruning, ICLR 2020, section 2"

    def saliency(self, layer: Layer) -> Tensor:
        """Squared weights."""
        return layer.weight.square()
