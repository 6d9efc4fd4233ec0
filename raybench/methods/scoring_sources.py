"""Where the scores of one side of one layer come from, and how they follow when channels disappear on paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raybench.methods.evidence import Evidence
from raybench.methods.layers import view
from raybench.methods.protocols import ElementwiseImportance, Importance, Layer
from raybench.pipeline.records import Groups, Member
from raybench.pipeline.widths import sides_of

Key = tuple[str, str]  # (layer, side)
Places = Mapping[Key, np.ndarray]  # bool (width,): positions of each side that are left
NO_SAY = ("parameter",)  # position embeddings, class tokens and layer scales don't vote, as in torch-pruning


class Source(Protocol):
    """Scores of every member side, kept up to date while positions are removed."""

    def start(self) -> None:
        """Forget every removal."""

    def remove(self, key: Key, gone: np.ndarray, places: Places) -> list[Key]:
        """Positions `gone` of one side just died (`places` knows); returns the sides whose values changed."""

    def values(self, member: Member) -> np.ndarray | None:
        """float64 score of each position of the member's side, (width,); None: it has no say."""


def other(key: Key) -> Key:
    """The layer's opposite side."""
    return key[0], "in" if key[1] == "out" else "out"


class LayerSource:
    """Any criterion: asks it again about a side whenever that side or its opposite has changed."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
    ) -> None:
        self.criterion, self.model, self.evidence, self.seed = criterion, model, evidence, seed
        self.members = {(m.layer, m.side): m for group in groups for m in group.members if m.kind not in NO_SAY}
        self._values: dict[Key, np.ndarray | None] = {}

    def start(self) -> None:
        """Score every side whole."""
        self._values = {key: self._score(member, {}) for key, member in self.members.items()}

    def remove(self, key: Key, gone: np.ndarray, places: Places) -> list[Key]:
        """Score both sides of the layer anew, if they have a say."""
        changed = [k for k in (key, other(key)) if self._values.get(k) is not None]
        for k in changed:
            self._values[k] = self._score(self.members[k], places)
        return changed

    def values(self, member: Member) -> np.ndarray | None:
        """As the criterion said last."""
        return self._values.get((member.layer, member.side))

    def _score(self, member: Member, places: Places) -> np.ndarray | None:
        key = (member.layer, member.side)
        across = places.get(other(key))
        layer = view(
            self.model, member, evidence=self.evidence, seed=self.seed,
            other=None if across is None or across.all() else np.nonzero(across)[0],
        )  # fmt: skip
        own = places.get(key)
        if own is None or own.all():
            found = self.criterion.layer_scores(layer)
            return None if found is None else found.double().cpu().numpy()
        left = torch.from_numpy(np.nonzero(own)[0])
        found = self.criterion.layer_scores(_only(layer, left))
        if found is None:
            return None
        values = np.zeros(member.width)
        values[left.numpy()] = found.double().cpu().numpy()
        return values


def _only(layer: Layer, left: Tensor) -> Layer:
    """`layer` without the channels that are gone."""

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.index_select(0, left.to(tensor.device))

    fields = ("weight", "bias", "gradient", "gradient_square", "unit")
    return replace(layer, **{name: rows(getattr(layer, name)) for name in fields})


class FixedSource(LayerSource):
    """A criterion whose scores don't depend on other channels' weights: asked once."""

    def start(self) -> None:
        """Keep the first answer; it is the answer for good."""
        if not self._values:
            super().start()

    def remove(self, key: Key, gone: np.ndarray, places: Places) -> list[Key]:
        """Nothing changes."""
        return []


class ElementSource:
    """A criterion that sums a saliency over weights: each layer is one (out x in) matrix, reduced once.

    A side's scores are the matrix's row or column sums over what is left across; removing positions subtracts
    their columns or rows, so that a whole schedule reads every entry about once.
    """

    def __init__(
        self, criterion: ElementwiseImportance, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
    ) -> None:
        self._sides = sides_of(groups)
        self._tables: dict[str, _Table] = {}
        for (layer, _), owners in self._sides.items():
            member = owners[0][1]
            if member.kind in NO_SAY or layer in self._tables:
                continue
            whole = replace(member, side="out", positions=member.positions[:0], units=member.units[:0])
            if member.side == "in":
                whole = replace(whole, width=_outputs(model.get_submodule(layer)))
            seen = view(model, whole, evidence=evidence, seed=seed)
            saliency = None if seen.weight is None else criterion.saliency(seen)
            if saliency is not None:
                both = member.kind in ("conv", "linear")
                self._tables[layer] = _Table(saliency, both, getattr(seen.module, "groups", 1) if both else 1)

    def start(self) -> None:
        """Full sums everywhere."""
        for table in self._tables.values():
            table.start()

    def remove(self, key: Key, gone: np.ndarray, places: Places) -> list[Key]:
        """Subtract what `gone` contributed across."""
        table = self._tables.get(key[0])
        across = other(key)
        if table is None or not table.two_sided or across not in self._sides:
            return []
        table.remove(key, gone, places)
        return [across]

    def values(self, member: Member) -> np.ndarray | None:
        """Row or column sums of the layer's matrix."""
        table = self._tables.get(member.layer)
        return None if table is None else table.sums[member.side]


def _outputs(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


class _Table:
    """One layer's saliency as a matrix (out, in of one convolution group), and its running sums."""

    def __init__(self, saliency: Tensor, two_sided: bool, groups: int) -> None:
        flat = saliency.flatten(2).sum(2) if saliency.dim() > 2 else saliency
        flat = flat if two_sided else flat.flatten(1).sum(1, keepdim=True)
        self.two_sided, self.groups = two_sided, groups
        self.matrix = np.ascontiguousarray(flat.detach().float().cpu().numpy())
        self._full = {"out": self.matrix.sum(1, dtype=np.float64)}
        if two_sided:
            self._full["in"] = self._columns(self.matrix)
        self.sums: dict[str, np.ndarray] = {}

    def start(self) -> None:
        self.sums = {side: values.copy() for side, values in self._full.items()}

    def remove(self, key: Key, gone: np.ndarray, places: Places) -> None:
        if self.groups > 1:
            self._recount(key, places)
        elif key[1] == "in":
            self.sums["out"] -= self.matrix[:, gone].sum(1, dtype=np.float64)
        else:
            self.sums["in"] -= self.matrix[gone].sum(0, dtype=np.float64)

    def _recount(self, key: Key, places: Places) -> None:
        """Grouped convolutions are small and their slots are shared: summed anew."""
        if key[1] == "in":
            slots = places[key].reshape(self.groups, -1)[0]  # the same slots are left in every group
            self.sums["out"] = self.matrix[:, slots].sum(1, dtype=np.float64)
        else:
            self.sums["in"] = self._columns(self.matrix * places[key][:, None])

    def _columns(self, matrix: np.ndarray) -> np.ndarray:
        """Score of each input channel: what the outputs of its own convolution group take from it, (in,)."""
        by_group = matrix.reshape(self.groups, -1, matrix.shape[1])
        return by_group.sum(axis=1, dtype=np.float64).ravel()
