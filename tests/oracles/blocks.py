"""Blocks worked out slowly: residual branches silenced by their last layer, and block influence place by place."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def silenced(model: nn.Module, blocks: Sequence[str], last: Sequence[str]) -> nn.Module:
    """A copy of `model` in which the layers `last` of each of `blocks` give zeros: their residual branches are zero."""
    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for block in blocks:
            for name in last:
                owner: Any = quiet.get_submodule(block)
                *path, leaf = name.split(".")
                for part in path:
                    owner = getattr(owner, part)
                own = getattr(owner, leaf)
                for tensor in own.parameters() if isinstance(own, nn.Module) else [own]:
                    tensor.zero_()
    return quiet


def influence(entered: Tensor, left: Tensor, channels_first: bool) -> float:
    """1 - mean cosine of two stacks of feature maps, in float64, one position of one image after the other."""
    a, b = (np.asarray(one, dtype=np.float64) for one in (entered, left))
    if channels_first:
        a, b = np.moveaxis(a, 1, -1), np.moveaxis(b, 1, -1)
    cosines = []
    for place in np.ndindex(a.shape[:-1]):
        product = sum(x * y for x, y in zip(a[place], b[place], strict=True))
        lengths = math.sqrt(sum(x * x for x in a[place])) * math.sqrt(sum(y * y for y in b[place]))
        same = not a[place].any() and not b[place].any()
        cosines.append(1.0 if same else product / lengths if lengths else 0.0)
    return 1 - sum(cosines) / len(cosines)
