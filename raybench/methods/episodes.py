"""An episodic memory of sub-networks and the accuracies they had, and a network that predicts accuracy from gates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

WIDTH, HIDDEN = 128, 64  # of a group's embedding, and of the GRU in each direction


class Memory(nn.Module):
    """At most `most` pairs of (gates, accuracy), each the mean of `average` steps that follow each other."""

    def __init__(self, units: int, most: int, average: int) -> None:
        super().__init__()
        self.average = average
        self.register_buffer("gates", torch.zeros(most, units))
        self.register_buffer("accuracies", torch.zeros(most))
        self.register_buffer("sums", torch.zeros(units + 1))  # of gates, and of accuracy
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # of pairs, and of steps in `sums`

    gates: Tensor
    accuracies: Tensor
    sums: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return int(self.counts[0])

    def add(self, gates: Tensor, accuracy: Tensor) -> None:
        """Note a step. In a full memory the pair of nearest accuracy becomes the mean of itself and the new one."""
        self.sums += torch.cat([gates, accuracy.view(1).to(gates)])
        self.counts[1] += 1
        if int(self.counts[1]) < self.average:
            return
        mean, count = self.sums / self.average, len(self)
        if count < len(self.accuracies):
            self.gates[count], self.accuracies[count] = mean[:-1], mean[-1]
            self.counts[0] += 1
        else:
            near = int((self.accuracies - mean[-1]).abs().argmin())
            self.gates[near] = (self.gates[near] + mean[:-1]) / 2
            self.accuracies[near] = (self.accuracies[near] + mean[-1]) / 2
        self.sums.zero_()
        self.counts[1] = 0

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`size` pairs drawn without replacement: (size, units) and (size,)."""
        chosen = torch.randperm(len(self), generator=generator)[:size].to(self.gates.device)
        return self.gates[chosen], self.accuracies[chosen]


class Predictor(nn.Module):
    """Gates -> predicted accuracy in (0, 1): an embedding of each group, a GRU over the groups, a sigmoid."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.embeddings = nn.ModuleList(weight_norm(nn.Linear(size, WIDTH, bias=False)) for size in sizes)
        self.norm, self.gru = nn.LayerNorm(WIDTH), nn.GRU(WIDTH, HIDDEN, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, 1, bias=False)

    def forward(self, gates: Tensor) -> Tensor:
        """(n, units) -> (n,)."""
        parts = zip(self.embeddings, gates.split(self.sizes, dim=1), strict=True)
        states = torch.stack([F.relu(self.norm(embedding(part))) for embedding, part in parts])  # (groups, n, WIDTH)
        last = self.gru(states)[1]  # (2, n, HIDDEN)
        return torch.sigmoid(self.head(last.transpose(0, 1).flatten(1))).squeeze(1)
