"""Cuts of small networks, as the tests of selections make them."""

from __future__ import annotations

import torch
from torch import nn

from raybench import registry
from raybench.groups.trace import trace
from raybench.methods.protocols import Importance
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
L2 = registry.importance.load("magnitude-l2")()


def cuts_of(model: nn.Module, targets, criterion: Importance = L2, calibration=None, **how):
    groups = trace(model, IMAGE)
    return groups, select(Scoring(criterion, model, calibration), IMAGE, groups, targets, **how)
