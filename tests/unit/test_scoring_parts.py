"""The parts of scoring beside plain loops: squared gradients, running sums, normalisation, labels, batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench.errors import NotSupported, RaybenchError, StageError
from raybench.groups.records import Group, Groups
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration, ElementwiseImportance, Importance
from raybench.scoring import squared_products as products
from raybench.scoring.evidence import Batch, Labels, batches, check_finite, evaluating, finite_outputs
from raybench.scoring.gather import gather
from raybench.scoring.recompute import REDUCE, ComputedOnce, Recomputed, other, scattered
from raybench.scoring.running_pairs import RunningPairs
from raybench.scoring.running_sums import Matrix, RunningSums, shared_positions
from raybench.scoring.sample_gradients import rule_for
from raybench.scoring.scorer import Scorer, _raw_scores, normalised
from tests.oracles import nets
from tests.oracles.nets import member


@dataclasses.dataclass(frozen=True)
class Squares(Importance):
    needs = "sample-gradients"


@dataclasses.dataclass(frozen=True)
class Sizes(ElementwiseImportance):
    """|w|, reduced and normalised as its subclasses say."""

    normalize = "none"

    def saliency(self, layer):
        return layer.weight.abs()


class Largest(Sizes):
    reduce = "max"


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("positions", [1, 2, 4, 5, 9])
def test_squared_products_are_sums_over_samples(positions: int, groups: int) -> None:
    left, right = seeded(4 * groups, positions, 3), seeded(4 * groups, positions, 5)
    expected = torch.zeros(groups, 3, 5)
    for number, (one, two) in enumerate(zip(left, right, strict=True)):  # samples outermost
        expected[number % groups] += (one.T @ two) ** 2
    found = products.squared_products(left, right, groups)
    torch.testing.assert_close(found, expected.flatten(0, 1))
    if groups == 1:
        torch.testing.assert_close(products._in_cache(left, right), expected[0])


@pytest.mark.parametrize("most", [1, 120, 10**9])
def test_accelerators_take_as_many_samples_at_once_as_fit(monkeypatch, most: int) -> None:
    left, right, sizes = seeded(7, 6, 3), seeded(7, 6, 5), []
    bmm = torch.bmm
    monkeypatch.setattr(products, "CHUNK_BYTES", most)
    monkeypatch.setattr(torch, "bmm", lambda a, b: sizes.append(len(a)) or bmm(a, b))
    found = products._in_chunks(left, right)
    torch.testing.assert_close(found, products._in_cache(left, right))
    assert sizes == {1: [1] * 7, 120: [2, 2, 2, 1], 10**9: [7]}[most]  # one sample's product is 60 bytes


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "stride": (1, 3)}, {"kernel_size": 1, "padding": 1}, {"kernel_size": (3, 1), "padding": (1, 0)},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "stride": 3},
    {"kernel_size": 3, "padding": 1, "groups": 2}, {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
    {"kernel_size": 7, "padding": 3, "stride": 4},  # taps that only ever read padding
    {"kernel_size": (7, 3), "padding": (3, 1), "groups": 2, "stride": (4, 1)},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, {"kernel_size": 3, "padding": "same"},
]  # fmt: skip


class Ends(nn.Module):
    """A layer between two others, and the mean over its positions."""

    def __init__(self, first: nn.Module, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.layer, self.last = first, layer, nn.Linear(width, 3)

    def forward(self, x):
        x = self.layer(self.first(x))
        over = tuple(range(1, x.dim() - 1)) if isinstance(self.first, nn.Linear) else tuple(range(2, x.dim()))
        return self.last(x.mean(over) if over else x)


def one_by_one(model, groups, images, labels):
    """Weight name -> mean over samples of the squared gradient, by autograd."""
    names = {f"{m.layer}.weight" for g in groups for m in g.members}
    total = dict.fromkeys(names, 0)
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model.eval()(image[None]), label[None]).backward()
        for name in names:
            total[name] = total[name] + model.get_parameter(name).grad ** 2 / len(images)
    return total


def assert_squares(model, groups, images, batch_size: int = 3) -> None:
    labels = torch.arange(len(images)) % 3
    found = gather(Squares(), model, groups, Calibration(images, labels, batch_size)).gradient_squares
    expected = one_by_one(model, groups, images, labels)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-9, msg=name)


def single(layer: str, kind: str, width: int) -> Groups:
    """One group of one layer's outputs."""
    return Groups((Group(layer, width, (member(layer, kind, "out", width),)),))


@pytest.mark.parametrize("size", [(6, 5), (2, 2), (3, 7)])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_squared_gradients_of_any_convolution(options, size) -> None:
    torch.manual_seed(0)
    try:
        model = Ends(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, **options), 8)
        images = seeded(5, 2, *size)
        model(images)
    except RuntimeError:  # the kernel is larger than the picture
        pytest.skip("no such picture")
    assert_squares(model, single("layer", "conv", 8), images)


@pytest.mark.parametrize(
    ("make", "shape", "kind", "width"),
    [
        (lambda: Ends(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), 4), (5, 2, 6, 6), "norm", 4),
        (lambda: Ends(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), 4), (5, 2, 6, 6), "norm", 4),
        (lambda: Ends(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), 4), (5, 2, 6, 6), "norm", 4),
        (lambda: Ends(nn.Linear(4, 4), nn.BatchNorm1d(4), 4), (5, 4), "norm", 4),
        (lambda: Ends(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), 4), (5, 2, 6), "norm", 4),
        (lambda: Ends(nn.Linear(4, 6), nn.LayerNorm(6, eps=0.1), 6), (5, 7, 4), "norm", 6),
        (lambda: Ends(nn.Linear(4, 6), nn.LayerNorm(6), 6), (5, 4), "norm", 6),
        (lambda: Ends(nn.Linear(4, 6), nn.Linear(6, 8), 8), (5, 7, 4), "linear", 8),
        (lambda: Ends(nn.Linear(4, 6), nn.Linear(6, 8, bias=False), 8), (5, 4), "linear", 8),
    ],
)
def test_squared_gradients_of_norms_and_linear_layers(make, shape, kind, width) -> None:
    torch.manual_seed(0)
    model = make()
    if isinstance(model.layer, nn.modules.batchnorm._BatchNorm) and model.layer.track_running_stats:
        nn.init.uniform_(model.layer.running_var, 0.5, 2)
        nn.init.normal_(model.layer.running_mean)
    elif isinstance(model.layer, nn.BatchNorm2d):
        return  # its statistics are of the batch: rows of a batch aren't samples there
    assert_squares(model, single("layer", kind, width), seeded(*shape))


def test_which_layers_have_a_rule_for_whole_batches() -> None:
    for layer in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.LayerNorm(2)):
        assert rule_for(layer) is not None
    for layer in (
        nn.Conv1d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1), nn.GroupNorm(1, 2), nn.Conv2d(2, 2, 1, padding="same"),
        nn.Conv2d(2, 2, 1, padding_mode="reflect"), nn.BatchNorm2d(2, track_running_stats=False),
    ):  # fmt: skip
        assert rule_for(layer) is None
    assert len({rule_for(x) for x in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.BatchNorm1d(2), nn.LayerNorm(2))}) == 4


def test_layers_that_run_twice_or_never_are_differentiated_sample_by_sample() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.idle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.layer(F.relu(self.layer(x))))

    torch.manual_seed(0)
    model, images = Twice(), seeded(5, 4)
    both = Groups((*single("layer", "linear", 4), *single("last", "linear", 3)))
    assert_squares(model, both, images)
    idle = Groups((*both, *single("idle", "linear", 4)))
    found = gather(Squares(), model, idle, Calibration(images, torch.arange(5) % 3, 2)).gradient_squares
    assert set(found) == {"layer.weight", "last.weight"}


def test_an_input_that_changes_after_use_is_an_error() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            seen = x * 1
            y = self.layer(seen)
            seen.data.add_(1)  # autograd doesn't notice it, the version of the tensor does
            seen += 0
            return self.last(y + x)

    with pytest.raises(RaybenchError, match=r"the input of the layer that holds 'layer\.weight' was changed in place"):
        gather(Squares(), Kept(), single("layer", "linear", 4), Calibration(seeded(5, 4), torch.arange(5) % 3, 2))


def test_batches_are_in_order_and_know_their_share() -> None:
    images, labels = seeded(7, 2), torch.arange(7)
    found = list(batches(nn.Linear(2, 3), Calibration(images, labels, 3)))
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(torch.cat([batch.images for batch in found]), images)
    assert [batch.share for batch in found] == [3 / 7, 3 / 7, 1 / 7]
    one = found[1].only(2)
    assert (one.labels.tolist(), one.images.shape, one.share) == ([5], (1, 2), 3 / 7)
    assert torch.equal(one.images[0], images[5])


def test_labels_are_true_or_drawn_from_the_softmax() -> None:
    output, labels = torch.log(torch.tensor([[0.2, 0.3, 0.5]])).expand(4000, 3), torch.zeros(4000, dtype=torch.int64)
    batch = Batch(torch.zeros(4000, 1), labels, 1.0)
    calibration = Calibration(batch.images, labels, 10, lambda out, target: out.sum() * 0 + 7)
    true, drawn = Labels("true", calibration), Labels("sampled", calibration)
    assert true.choose(output, batch) is batch
    assert float(true.loss(output, batch)) == 7  # the calibration's own loss
    chosen = drawn.choose(output, batch)
    counts = torch.bincount(chosen.labels) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.3, 0.5]), atol=0.03, rtol=0)
    assert torch.equal(chosen.images, batch.images)
    assert float(drawn.loss(output, chosen)) == pytest.approx(float(F.cross_entropy(output, chosen.labels)))
    assert not torch.equal(drawn.choose(output, batch).labels, chosen.labels)  # the draw goes on
    assert torch.equal(Labels("sampled", calibration).choose(output, batch).labels, chosen.labels)
    generator = torch.Generator().manual_seed(5)
    own = Labels("sampled", dataclasses.replace(calibration, generator=generator))
    state = generator.get_state()
    expected = torch.multinomial(output.double().softmax(1), 1, generator=torch.Generator().manual_seed(5)).squeeze(1)
    assert torch.equal(own.choose(output, batch).labels, expected)
    assert torch.equal(generator.get_state(), state)
    assert float(Labels("true", Calibration(batch.images, labels, 1)).loss(output, batch)) == pytest.approx(np.log(5))
    for shape in ((5,), (5, 3, 1)):
        with pytest.raises(NotSupported):
            drawn.choose(torch.zeros(shape), batch)
    with pytest.raises(NotSupported):
        drawn.choose((output,), batch)


def test_the_layer_nearest_to_the_loss_is_named() -> None:
    names = {f"{name}.weight": member(name, "linear", "out", 1) for name in "abc"}
    fine = {f"{name}.weight": torch.ones(1) for name in "abc"}
    assert check_finite(fine, "gradient", names) is fine
    broken = fine | {"a.weight": torch.tensor([float("nan")]), "b.weight": torch.tensor([float("inf")])}
    with pytest.raises(StageError, match="gradient of layer 'b' has NaN") as told:
        check_finite(broken, "gradient", names)
    assert told.value.stage == "select"


def test_modes_and_hooks_are_restored_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1), nn.Dropout()))
    model[1].eval()
    flags = [module.training for module in model.modules()]
    nn.init.constant_(model[1][0].weight, float("inf"))

    def watched() -> None:
        with evaluating(model), finite_outputs(model, "prune"):
            assert not any(module.training for module in model.modules())
            assert [bool(m._forward_hooks) for m in model.modules()] == [False, True, False, True, True]
            model(torch.ones(1, 1))

    with pytest.raises(StageError, match=r"activations of layer '1\.0'") as told:
        watched()
    assert told.value.stage == "prune"
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    with finite_outputs(model), pytest.raises(StageError) as told:
        model(torch.ones(1, 1))
    assert told.value.stage == "select"


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

    told = {name: _raw_scores(registry.importance.load(name)(), groups) for name in ("random", "hrank", "fpgm", "lamp")}
    assert told == {"random": ComputedOnce, "hrank": ComputedOnce, "fpgm": RunningPairs, "lamp": RunningSums}
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
