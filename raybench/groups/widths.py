"""The width of each side of each layer, as a function of how many units every group keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from raybench.errors import NotSupported
from raybench.groups.records import Groups, Member, Side


@dataclass(frozen=True)
class Widths:
    """A table of widths: column j is `fixed[j] + features @ per_unit[:, j]`.

    The features are the kept counts themselves, followed by one product of counts for each pair of groups that
    share positions (attention heads x head width).
    """

    columns: Mapping[tuple[str, str], int]  # (layer, side) -> column; ("", "one") is the constant 1
    fixed: np.ndarray  # (sides,) positions that no group touches
    per_unit: np.ndarray  # (features, sides)
    pairs: np.ndarray  # (products, 2) group indices
    members: Mapping[str, Member]  # layer -> one of its members

    @classmethod
    def of(cls, model: nn.Module, groups: Groups) -> Widths:
        """Sides of all Conv and Linear layers of `model` and of every member of `groups`."""
        sides = sides_of(groups)
        blocks = {key: _blocks(key, owners, groups) for key, owners in sides.items()}
        full = _layer_widths(model) | {key: owners[0][1].width for key, owners in sides.items()} | {("", "one"): 1}
        pairs = sorted({block for found in blocks.values() for block in found if len(block) == 2})
        row: dict[tuple[int, ...], int] = {(g,): g for g in range(len(groups))}
        row |= {pair: len(groups) + i for i, pair in enumerate(pairs)}
        columns = {key: j for j, key in enumerate(full)}
        fixed = np.array(list(full.values()), dtype=float)
        per_unit = np.zeros((len(row), len(columns)))
        for key, found in blocks.items():
            for block, (positions, each) in found.items():
                fixed[columns[key]] -= positions
                per_unit[row[block], columns[key]] = each
        members = {m.layer: m for group in groups for m in group.members}
        return cls(columns, fixed, per_unit, np.array(pairs, dtype=np.int64).reshape(-1, 2), members)

    def at(self, kept: np.ndarray) -> np.ndarray:
        """Widths at `kept` units per group: (..., groups) -> (..., sides) float64."""
        kept = np.asarray(kept, dtype=float)
        products = kept[..., self.pairs[:, 0]] * kept[..., self.pairs[:, 1]]
        return self.fixed + np.concatenate([kept, products], axis=-1) @ self.per_unit

    def column(self, layer: str, side: str) -> int:
        """Column of one side; the constant 1's for a side that doesn't exist (a norm has no input side)."""
        return self.columns.get((layer, side), self.columns["", "one"])


def sides_of(groups: Groups) -> dict[tuple[str, Side], list[tuple[int, Member]]]:
    """(layer, side) -> every (group index, member) that owns positions of it."""
    sides: dict[tuple[str, Side], list[tuple[int, Member]]] = {}
    for g, group in enumerate(groups):
        for member in group.members:
            sides.setdefault((member.layer, member.side), []).append((g, member))
    return sides


def _layer_widths(model: nn.Module) -> dict[tuple[str, str], int]:
    widths: dict[tuple[str, str], int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths |= {(name, "out"): module.out_features, (name, "in"): module.in_features}
        elif isinstance(module, nn.modules.conv._ConvNd):
            widths |= {(name, "out"): module.out_channels, (name, "in"): module.in_channels}
    return widths


def _blocks(
    key: tuple[str, str], owners: list[tuple[int, Member]], groups: Groups
) -> dict[tuple[int, ...], tuple[int, int]]:
    """Groups that own the same positions of one side -> (number of positions, positions per combination of units).

    NotSupported when units own unequal numbers of positions: the number of units would not determine the width.
    """
    owned = np.zeros((len(owners), owners[0][1].width), dtype=bool)
    unit = np.zeros(owned.shape, dtype=np.int64)
    for i, (_, member) in enumerate(owners):
        owned[i, member.positions] = True
        unit[i, member.positions] = member.units
    blocks: dict[tuple[int, ...], tuple[int, int]] = {}
    for pattern in np.unique(owned, axis=1).T:
        if not pattern.any():
            continue
        here = (owned == pattern[:, None]).all(axis=0)
        sizes = [groups.groups[owners[i][0]].size for i in np.nonzero(pattern)[0]]
        counts = np.bincount(np.ravel_multi_index(tuple(unit[pattern][:, here]), sizes), minlength=int(np.prod(sizes)))
        if len(sizes) > 2 or (counts != counts[0]).any():
            raise NotSupported(f"{key[0]} ({key[1]}): its channels are shared unevenly by the units of its groups")
        blocks[tuple(owners[i][0] for i in np.nonzero(pattern)[0])] = (int(here.sum()), int(counts[0]))
    return blocks
