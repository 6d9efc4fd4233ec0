"""Pixel means and standard deviations that published weights were trained with, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, unknown

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision, DeiT, most of timm
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # timm's augreg ViTs
}


@dataclass(frozen=True)
class View:
    """How published weights were evaluated: images normalised, and files resized and cropped to the centre."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float  # side of the centre crop in units of the shorter side
    interpolation: str  # bilinear or bicubic


def with_statistics(facts: DataFacts, name: str) -> DataFacts:
    """`facts` with the named mean and std; "own" keeps the dataset's own. UserError for an unknown name."""
    if name == "own":
        return facts
    if name not in STATISTICS:
        raise UserError(unknown("statistics", name, ["own", *STATISTICS]))
    mean, std = STATISTICS[name]
    return replace(facts, mean=mean, std=std)
