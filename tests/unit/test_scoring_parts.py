"""Scores from a criterion's evidence beside plain loops: reduction, normalisation, running sums, removals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from raybench.groups.records import Group, Groups
from raybench.groups.trace import trace
from raybench.methods.protocols import ElementwiseImportance, Importance
from raybench.scoring.recompute import REDUCE, ComputedOnce, Recomputed, other, scattered
from raybench.scoring.running_pairs import RunningPairs
from raybench.scoring.running_sums import Matrix, RunningSums, shared_positions
from raybench.scoring.scorer import Scorer, _raw_scores, normalised
from tests.oracles import nets
from tests.oracles.nets import member
from tests.unit.scoring_cases import seeded, single


@dataclasses.dataclass(frozen=True)
class Sizes(ElementwiseImportance):
    """|w|, reduced and normalised as its subclasses say."""

    normalize = "none"

    def saliency(self, layer):
        return layer.weight.abs()


class Largest(Sizes):
    reduce = "max"


RAW = np.array([1.0, 4.0, 2.0, 8.0])
SOME = np.array([True, False, True, True])


@pytest.mark.parametrize(
    ("how", "alive", "expected"),
    [
        ("none", SOME, RAW),
        ("mean", SOME, RAW * 3 / 11), ("mean", np.ones(4, bool), RAW * 4 / 15),
        ("sum", SOME, RAW / 11), ("max", SOME, RAW / 8),
        ("lamp", SOME, [1 / 11, 0, 2 / 10, 1]), ("lamp", np.ones(4, bool), [1 / 15, 4 / 12, 2 / 14, 1]),
    ],
)  # fmt: skip
def test_scores_are_scaled_over_the_units_that_are_left(how: str, alive, expected) -> None:
    found = normalised(RAW, alive, float(RAW @ alive), how)
    np.testing.assert_allclose(found, expected)
    assert found is not RAW
    zeros = normalised(np.zeros(4), alive, 0.0, how)
    assert zeros.tolist() == [0] * 4


def test_the_largest_counts_among_those_left() -> None:
    alive = np.array([True, True, True, False])
    np.testing.assert_allclose(normalised(RAW, alive, 7.0, "max"), RAW / 4)


def test_reductions() -> None:
    rows = np.array([[1.0, 5.0], [3.0, 1.0]])
    found = {name: reduce(rows).tolist() for name, reduce in REDUCE.items()}
    assert found == {"mean": [2, 3], "sum": [4, 6], "max": [3, 5], "first": [1, 5]}
    assert (other(("a", "out")), other(("a", "in"))) == (("a", "in"), ("a", "out"))
    both = member("a", "linear", "in", 6, [0, 2, 4, 5], [0, 1, 1, 0])
    assert scattered(both, np.array([1.0, 100, 2, 100, 4, 8]), 3).tolist() == [9, 6, 0]


@pytest.mark.parametrize("groups", [1, 2])
def test_sums_over_a_matrix(groups: int) -> None:
    """(6 outputs, 3 inputs of each convolution group), with two taps."""
    weight = seeded(6, 3, 2, 1).abs()
    matrix, flat = Matrix(weight, True, groups), weight.sum((2, 3)).double().numpy()
    whole = np.zeros((6, 3 * groups))  # with all inputs of all groups
    for row in range(6):
        g = row // (6 // groups)
        whole[row, 3 * g : 3 * g + 3] = flat[row]
    np.testing.assert_allclose(matrix.total("out"), whole.sum(1), rtol=1e-6)
    np.testing.assert_allclose(matrix.total("in"), whole.sum(0), rtol=1e-6)
    lost = np.array([0, 2, 5])
    np.testing.assert_allclose(matrix.across("out", lost), whole[lost].sum(0), rtol=1e-6)
    slots = np.array([0, 2]) if groups == 1 else np.array([0, 2, 3, 5])  # the same of each group
    np.testing.assert_allclose(matrix.across("in", slots), whole[:, slots].sum(1), rtol=1e-6)
    column = Matrix(weight, False, 1)
    np.testing.assert_allclose(column.total("out"), flat.sum(1), rtol=1e-6)
    assert column.values.dtype == np.float32
    assert not column.two_sided


def test_positions_that_two_groups_own() -> None:
    first, second = member("a", "linear", "in", 6, [0, 1], [0, 1]), member("a", "linear", "in", 6, [2, 3], [0, 1])
    apart = Groups((Group("x", 2, (first,)), Group("y", 2, (second,))))
    shared = Groups((Group("x", 2, (first,)), Group("y", 2, (dataclasses.replace(second, positions=first.positions),))))
    assert (shared_positions(apart), shared_positions(shared)) == (False, True)


def test_each_criterion_gets_the_cheapest_exact_sums() -> None:
    _, groups = nets.build("plain")
    from raybench import registry

    ways = {name: _raw_scores(registry.importance.load(name)(), groups) for name in ("random", "hrank", "fpgm", "lamp")}
    assert ways == {"random": ComputedOnce, "hrank": ComputedOnce, "fpgm": RunningPairs, "lamp": RunningSums}
    assert (_raw_scores(Sizes(), groups), _raw_scores(Largest(), groups)) == (RunningSums, Recomputed)
    _, attention = nets.build("attention")
    expected = Recomputed if shared_positions(attention) else RunningSums
    assert _raw_scores(Sizes(), attention) is expected


class Summed(Sizes):
    reduce = "sum"


@pytest.mark.parametrize("criterion", [Sizes(), Summed(), Largest()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "grouped"])
def test_scores_after_removals_are_those_of_fresh_sums(name: str, criterion) -> None:
    """By hand: |w| over the rows and columns that are left, without the library's cut."""
    net, groups = nets.build(name)
    scorer = Scorer(criterion, net, groups)
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    whole = [s.copy() for s in scorer.scores(alive)]
    fresh = Recomputed(criterion, net, groups, None, 0)
    fresh.start()
    for left in alive:
        left[0] = False
    found = scorer.scores(alive)
    fresh.remove([np.array([0]) for _ in alive])
    for g, left in enumerate(alive):
        np.testing.assert_allclose(found[g][left], fresh.raw(g)[left], rtol=1e-5)
        assert not np.allclose(found[g][left], whole[g][left])
    back = scorer.scores()  # units that come back: everything starts anew
    for a, b in zip(back, whole, strict=True):
        np.testing.assert_allclose(a, b)
    for order, score in zip(scorer.rank(), whole, strict=True):
        assert order.tolist() == np.argsort(score, kind="stable").tolist()


def test_scores_of_one_sweep_of_removals_tell_what_changed() -> None:
    net, groups = nets.build("plain")
    for kind in (RunningSums, Recomputed):
        raw = kind(Sizes(), net, groups, None, 0)
        raw.start()
        assert raw.remove([np.zeros(0, dtype=int)] * 2) == set()
        assert raw.remove([np.array([1]), np.zeros(0, dtype=int)]) == {0, 1}  # conv2 lost an input
    once = ComputedOnce(Sizes(), net, groups, None, 0)
    once.start()
    assert once.remove([np.array([1]), np.zeros(0, dtype=int)]) == {0}
    before = once.raw(0)
    with torch.no_grad():
        net.conv1.weight.mul_(2)
    once.start()
    np.testing.assert_array_equal(once.raw(0), before)


def test_groups_without_a_weight_have_no_score() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 2))  # fmt: skip
    bare = single("1", "norm", 4)
    for criterion in (Sizes(), Largest()):
        assert Scorer(criterion, net, bare).scores() == [None]
        assert Scorer(criterion, net, bare).rank() == [None]
    groups = trace(net, torch.zeros(1, 3, 4, 4))
    assert all(score is not None for score in Scorer(Sizes(), net, groups).scores())


def test_sums_are_exact_where_single_precision_would_round() -> None:
    large = float(2**24)  # the next whole number is 2 further in single precision
    row = torch.tensor([[large, 1.0, 1.0, 0.0], [1.0, 1.0, large, 1.0]])
    whole, split = Matrix(row, True, 1), Matrix(torch.cat([row, row]), True, 2)
    assert whole.total("out").tolist() == [large + 2, large + 3]
    assert whole.across("in", np.array([0, 1, 2])).tolist() == [large + 2, large + 2]
    tall = Matrix(row.T.contiguous(), True, 1)
    assert tall.total("in").tolist() == [large + 2, large + 3]
    assert tall.across("out", np.array([0, 1, 2])).tolist() == [large + 2, large + 2]
    assert split.across("in", np.array([0, 1, 2, 4, 5, 6])).tolist() == [large + 2] * 4
    assert Matrix(torch.cat([row.T, row.T]), True, 2).total("in").tolist() == [large + 2, large + 3] * 2


class Joined(nn.Module):
    """Two convolutions side by side, whose outputs a third reads one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(7, 5, 1)

    def groups(self) -> Groups:
        own = [(member("left", "conv", "out", 3), member("last", "conv", "in", 7, [0, 1, 2], [0, 1, 2])),
               (member("right", "conv", "out", 4), member("last", "conv", "in", 7, [3, 4, 5, 6], [0, 1, 2, 3])),
               (member("last", "conv", "out", 5),)]  # fmt: skip
        return Groups(
            tuple(Group(name, size, own[i]) for i, (name, size) in enumerate(zip("abc", (3, 4, 5), strict=True)))
        )


def test_what_reads_two_layers_loses_the_right_columns() -> None:
    torch.manual_seed(0)
    net = Joined()
    groups, weights = net.groups(), net.last.weight.detach().abs().double().numpy()[:, :, 0, 0]
    right = net.right.weight.detach().abs().double().numpy().sum((1, 2, 3))
    alive = [np.array([True, False, True]), np.ones(4, dtype=bool), np.array([True, True, False, True, True])]
    for criterion in (Sizes(), Largest()):
        found = Scorer(criterion, net, groups).scores(alive)
        np.testing.assert_allclose(found[2][alive[2]], np.delete(weights, 1, 1).sum(1)[alive[2]], rtol=1e-5)
        columns = np.delete(weights, 2, 0).sum(0)[3:]
        expected = (right + columns) / 2 if criterion.reduce == "mean" else np.maximum(right, columns)
        np.testing.assert_allclose(found[1], expected, rtol=1e-5)


def test_equal_scores_stay_in_order() -> None:
    net = nn.Sequential(nn.Conv2d(1, 200, 1, bias=False))
    with torch.no_grad():
        net[0].weight[:] = (torch.arange(200) % 2).view(200, 1, 1, 1) + 1.0
    groups = single("0", "conv", 200)
    (order,) = Scorer(Sizes(), net, groups).rank()
    assert order.tolist() == [*range(0, 200, 2), *range(1, 200, 2)]
    lamp = normalised(np.ones(200), np.ones(200, dtype=bool), 200.0, "lamp")
    np.testing.assert_allclose(lamp, 1 / np.arange(200, 0, -1))  # the first goes first


class Units(Importance):
    """A criterion that reads what only the view of a layer knows."""

    def layer_scores(self, layer):
        return layer.unit.double() + 1


def test_a_view_of_what_is_left_knows_its_units() -> None:
    net, groups = nets.build("plain")
    raw = Recomputed(Units(), net, groups, None, 0)
    raw.start()
    raw.remove([np.array([1]), np.zeros(0, dtype=int)])
    expected = np.arange(1.0, groups.groups[0].size + 1)
    expected[1] = 0
    np.testing.assert_array_equal(raw.raw(0), expected)


def test_the_seed_is_zero_unless_told() -> None:
    from raybench import registry

    net, groups = nets.build("plain")
    criterion = registry.importance.load("random")()
    plain, zero = Scorer(criterion, net, groups).scores(), Scorer(criterion, net, groups, None, 0).scores()
    assert all(np.array_equal(a, b) for a, b in zip(plain, zero, strict=True))
