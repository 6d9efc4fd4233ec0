"""Seeded, stratified splits: the same images on every machine and with every library version."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raybench.datasets.class_counts import held_out
from raybench.errors import UserError


def stratified(labels: Tensor, share: float, seed: int, classes: int, dataset: str) -> tuple[Tensor, Tensor]:
    """(rest, held out) indices, ascending int64; `share` of every class is held out, rounded, at least one image.

    UserError naming the classes with too few images for both sides.
    """
    if not 0 < share < 1:
        raise UserError(f"{dataset}: found a validation share of {share}, expected a number between 0 and 1")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    found = labels.numpy()[order]
    by_class = order[np.argsort(found, kind="stable")]  # one sort, also for ten thousand classes
    ends = np.cumsum(np.bincount(found, minlength=classes))
    held: list[np.ndarray] = []
    too_small: list[int] = []
    for label, members in enumerate(np.split(by_class, ends[: classes - 1])):
        count = held_out(len(members), share)
        if len(members) - count < 1:
            too_small.append(label)
        held.append(members[:count])
    if too_small:
        named = ", ".join(map(str, too_small[:5])) + (f" and {len(too_small) - 5} more" if len(too_small) > 5 else "")
        raise UserError(
            f"{dataset}: splitting off {share:.0%} for validation leaves class {named} without an image on one side; "
            "every class needs at least 2"
        )
    out = torch.from_numpy(np.sort(np.concatenate(held)))
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[out] = False
    return rest.nonzero().flatten(), out
