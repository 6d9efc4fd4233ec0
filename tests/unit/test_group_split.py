"""Chunks, splits and slices: parts that shrink together, parts that can't shrink, and parts that are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raybench.groups.by_graph import by_graph
from raybench.groups.members import Layers
from raybench.groups.trace import trace
from raybench.sweep.trial import DEFAULT_PARTS
from tests.oracles.grouping import check_groups, worst
from tests.pruning_nets import IMAGE, Chain, assert_costs_as_predicted


class Parted(nn.Module):
    """A convolution of 16 channels whose `parts` (of one or several widths) a second one reads."""

    def __init__(self, parts: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.parts = parts
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.head = nn.Conv2d(width, 12, 3, padding=1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(self.parts(torch.relu(self.norm(self.first(x)))))).mean((2, 3)))


class GatedTokens(nn.Module):
    """A transformer's gated MLP: the halves of one linear layer's tokens are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.both, self.back = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 32), nn.Linear(16, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.head((x + self.back(torch.sigmoid(gate) * value)).mean(1))


class CrossStage(nn.Module):
    """YOLO's C2f: both halves and what is made of the second are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.outer = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.last, self.head = nn.Conv2d(24, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(torch.relu(self.first(x)).chunk(2, 1))
        parts.append(parts[-1] + self.outer(torch.relu(self.inner(parts[-1]))))
        return self.head(torch.relu(self.last(torch.cat(parts, 1))).mean((2, 3)))


def glu(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return left * right.sigmoid()


def glu_of_the_second(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return left.sigmoid() * right


def second_half(x: Tensor) -> Tensor:
    return x.chunk(2, 1)[1]


def first_by_slice(x: Tensor) -> Tensor:
    return x[:, : x.shape[1] // 2]


def halves_exchanged(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return torch.cat([right, left], 1)


def even_then_odd(x: Tensor) -> Tensor:
    return torch.cat([x[:, ::2], x[:, 1::2]], 1)


NETS = {
    "glu": Parted(glu),
    "glu-second": Parted(glu_of_the_second),
    "second-half": Parted(second_half),
    "slice": Parted(first_by_slice),
    "even": Parted(lambda x: x[:, ::2]),
    "exchanged": Parted(halves_exchanged, 16),
    "even-odd": Parted(even_then_odd, 16),
    "tokens": GatedTokens(),
    "c2f": CrossStage(),
}


@pytest.mark.parametrize("model", NETS.values(), ids=NETS)
def test_parts_shrink_together_and_every_cut_computes_what_it_should(model: nn.Module) -> None:
    model.eval()
    groups = trace(model, IMAGE[:1])
    sizes = {g.name: g.size for g in groups}
    root = "both" if isinstance(model, GatedTokens) else "first"
    outs = next(m for m in groups.groups[list(sizes).index(root)].members if (m.layer, m.side) == (root, "out"))
    assert sizes[root] == outs.width // 2
    assert worst(check_groups(model, IMAGE, groups, unit=1)) < 1e-5
    assert_costs_as_predicted(model, groups)


def test_equal_parts_hold_one_channel_each() -> None:
    first, _ = trace(Parted(glu).eval(), IMAGE[:1])
    members = {(m.layer, m.side): m for m in first.members}
    assert first.size == 8
    outs = members["first", "out"]
    assert outs.positions[outs.units == 3].tolist() == [3, 11]
    assert members["second", "in"].positions[members["second", "in"].units == 3].tolist() == [3]
    even = trace(Parted(even_then_odd, 16).eval(), IMAGE[:1]).groups[0]
    outs, reads = (
        next(m for m in even.members if (m.layer, m.side) == at) for at in (("first", "out"), ("second", "in"))
    )
    assert outs.positions[outs.units == 3].tolist() == [6, 7]
    assert reads.positions[reads.units == 3].tolist() == [3, 11]


def test_unequal_parts_keep_their_layer_whole_and_are_told() -> None:
    def unequal(x: Tensor) -> Tensor:
        few, many = x.split([4, 12], 1)
        return torch.cat([many, few], 1)

    with pytest.warns(
        UserWarning, match=r"Chain: second keeps its width: the forward splits its channels into 4, 12; only equal"
    ):
        groups = trace(Chain(unequal).eval(), IMAGE[:1])
    assert [g.name for g in groups] == ["first", "third"]
    with pytest.warns(
        UserWarning, match=r"first keeps its width: the forward takes 0:5:1 of its 16 channels; only equal"
    ):
        groups = trace(Parted(lambda x: x[:, :5], 5).eval(), IMAGE[:1])
    assert [g.name for g in groups] == ["second"]


@pytest.mark.parametrize("parts", [lambda x: sum(x.split(8, 1)), lambda x: x[:, :8] * x[:, 8:]], ids=["split", "slice"])
def test_parts_by_number_stay_whole_and_the_rest_is_pruned(parts: Callable[[Tensor], Tensor]) -> None:
    with pytest.warns(UserWarning, match=r"Parted: first keeps its width: .*(split|slice).*; up to \d+ % of its MACs"):
        groups = trace(Parted(parts).eval(), IMAGE[:1])
    assert [g.name for g in groups] == ["second"]


@pytest.mark.parametrize("name", NETS)
def test_the_mended_graph_finds_parts_by_itself(name: str) -> None:
    """Following, the second way to find groups, would hide a wrong graph: it is tried when the first refuses."""
    model = NETS[name].eval()
    layers = Layers.of(model)
    groups = by_graph(model, IMAGE[:1], layers, DEFAULT_PARTS, None, set(), 60)
    assert {g.name: g.size for g in groups} == {g.name: g.size for g in trace(model, IMAGE[:1])}
    assert groups.whole["head"] == "it makes the network's output"
