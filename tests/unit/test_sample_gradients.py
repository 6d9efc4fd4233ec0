"""Squared gradients of single samples beside plain loops, and the batches and labels that they are of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench.errors import NotSupported, RaybenchError, StageError
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration
from raybench.scoring import squared_products as products
from raybench.scoring.evidence import Batch, Labels, batches, check_finite, evaluating, finite_outputs
from raybench.scoring.gather import gather
from raybench.scoring.sample_gradients import rule_for
from tests.oracles.nets import member
from tests.unit.scoring_cases import Squares, seeded, single


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
    bmm, expected = torch.bmm, products._in_cache(left, right)
    monkeypatch.setattr(products, "CHUNK_BYTES", most)
    monkeypatch.setattr(torch, "bmm", lambda a, b: sizes.append(len(a)) or bmm(a, b))
    found = products._in_chunks(left, right)
    torch.testing.assert_close(found, expected)
    assert sizes == {1: [1] * 7, 120: [2, 2, 2, 1], 10**9: [7]}[most]  # one sample's product is 60 bytes


@pytest.mark.parametrize("most", [1, 4000, 10**9])
def test_what_fits_in_the_cache_changes_no_bit(monkeypatch, most: int) -> None:
    left, right = seeded(7, 6, 16), seeded(7, 6, 24)  # torch multiplies smaller ones in another way
    expected = torch.zeros(16, 24)
    for one, other in zip(left, right, strict=True):  # one product at a time, in order
        product = one.t() @ other
        expected.addcmul_(product, product)
    monkeypatch.setattr(products, "CACHED_BYTES", most)
    assert torch.equal(products._in_cache(left, right), expected)


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
    with pytest.raises(StageError, match="gradient of layer 'b' has NaN") as caught:
        check_finite(broken, "gradient", names)
    assert caught.value.stage == "select"


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

    with pytest.raises(StageError, match=r"activations of layer '1\.0'") as caught:
        watched()
    assert caught.value.stage == "prune"
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    with finite_outputs(model), pytest.raises(StageError) as caught:
        model(torch.ones(1, 1))
    assert caught.value.stage == "select"
