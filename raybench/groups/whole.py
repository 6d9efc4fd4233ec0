"""What stays whole in a network and why, as one warning with the share of the MACs that can still be removed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from raybench.groups.members import Layers
from raybench.groups.records import Groups
from raybench.groups.widths import Widths

SHOWN = 3  # reasons, and layers for each reason, that a warning names


def share_of(layers: Layers, groups: Groups) -> float:
    """Share of the MACs of all convolutions and linear layers that goes where every group keeps its fewest units."""
    widths = Widths.of(layers.model, groups)
    most, least = (widths.at(np.array([getattr(g, name) for g in groups])) for name in ("size", "least"))
    total = gone = 0.0
    for name, module in layers.roots():
        macs, left = _macs(module, layers.shapes.get(name, ())), 1.0
        depthwise = isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels
        for side in ("out",) if depthwise else ("out", "in"):
            column = widths.column(name, side)
            left *= least[column] / most[column]
        total, gone = total + macs, gone + macs * (1 - left)
    return float(gone / total) if total else 0.0


def _macs(module: nn.Module, outputs: Sequence[torch.Size]) -> float:
    """MACs of one layer over all its calls."""
    size = sum(shape.numel() for shape in outputs)
    if isinstance(module, nn.Linear):
        return size * module.in_features
    assert isinstance(module, _ConvNd)
    kernel = math.prod(module.kernel_size) / module.groups
    if isinstance(module, _ConvTransposeNd):
        kernel /= math.prod(module.stride)
    return size * module.in_channels * kernel


def warning_of(model_name: str, layers: Layers, groups: Groups) -> str:
    """The warning of a network of which parts can't be cut; empty where all can be cut."""
    parts = [_part(names, others, why) for names, others, why in layers.whole]
    if not parts:
        return ""
    more = f"; and {len(parts) - SHOWN} more like these" if len(parts) > SHOWN else ""
    rest = f"up to {100 * groups.share:.0f} % of its MACs can still be removed"
    return f"{model_name}: {'; '.join(parts[:SHOWN])}{more}; {rest}"


def _part(names: Sequence[str], others: Sequence[str], why: str) -> str:
    beside = f", and with it {_some(others, 5)}" if others else ""
    return f"{_some(names, 5)} keeps its width{beside}: {why}"


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (" and more" if len(names) > count else "")


def by_reason(whole: Mapping[str, str]) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
    """Layers that stay, gathered by reason, as `Layers.whole` holds them; most layers first. Outputs are no news."""
    reasons: dict[str, list[str]] = {}
    reason_of: dict[str, str] = {}
    for name, why in whole.items():
        if why.startswith("it makes the "):
            continue
        kind = re.sub(r"\d+", "#", why)
        reason_of.setdefault(kind, why)
        reasons.setdefault(kind, []).append(name)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [((names[0],), tuple(names[1:]), reason_of[kind]) for kind, names in ordered]
