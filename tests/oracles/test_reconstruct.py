"""The refit after the cut: against least squares written from the papers, and on nets where it must be exact."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench import registry
from raybench.errors import StageError
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.methods import refit
from raybench.methods.protocols import Calibration, RefitProblem
from raybench.methods.repair import criterion_named, repaired
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer, Scoring
from raybench.selection.refit import reconstruct
from raybench.selection.select import select
from tests.oracles import nets
from tests.oracles.map_formulas import layer_io
from tests.pruning_nets import small_swin, small_vit

# net -> the units that stay, a group; the readers in the order in which they run
CUTS = {
    "plain": ({"conv1": (0, 2, 3), "conv2": (1, 2, 4, 5)}, ("conv2", "fc")),
    "residual": ({"stem": (0, 1, 3, 5), "conv1": (0, 2, 3)}, ("conv1", "conv2", "fc")),
    "depthwise": ({"expand": (0, 1, 2, 4), "project": (0, 3, 4)}, ("project", "fc")),
    "grouped": ({"conv1": (0, 2, 3), "grouped": (0, 1, 3)}, ("grouped", "conv3")),
    "attention": ({"fc1": (0, 1, 2, 5, 7)}, ("fc2",)),
}


def criterion(name, **params):
    if name == "repair":
        made = repaired(registry.importance.load("magnitude-l2")())
        object.__setattr__(made, "points", params.get("points", 10**6))
        return made
    return registry.importance.load(name)(**{"points": 10**6} | params)


def case(net_name, n=40):
    net, groups = nets.build(net_name)
    images, labels = nets.images(n)
    return net.double().eval(), groups, Calibration(images.double(), labels, 8)


def refitted(net, groups, kept, calibration, by):
    """(the net cut to `kept`, the same refitted by the criterion `by`)."""
    bare = copy.deepcopy(net)
    surgery.apply(bare, groups, kept)
    slim = copy.deepcopy(bare)
    reconstruct(by, net, slim, groups, kept, calibration)
    return bare, slim


def columns(module, inputs, first, count):
    """(points, count * taps): what a layer's inputs first to first + count are at each of its output locations."""
    if isinstance(module, nn.Linear):
        return inputs[..., first : first + count].reshape(-1, count).numpy()
    patches = F.unfold(inputs[:, first : first + count], module.kernel_size, 1, module.padding, module.stride)
    return patches.transpose(1, 2).flatten(0, 1).numpy()


def by_hand(name, dense, slim, groups, kept, reader, images):
    """Weight of `reader` in `slim`, refitted to the dense layer's output. He et al., ICCV 2017, eq. 4 and 5:
    argmin_W ||Y' - X W||^2; Luo et al., ICCV 2017, eq. 7: argmin_s ||y - sum_j s_j x_j||^2. Zhang and Yang, 2026: what
    is gone is affine in what is left, so of layers with a bias argmin_{W, b} ||Y' - X W - b||^2; b is returned, too."""
    whole, cut = dense.get_submodule(reader), slim.get_submodule(reader)
    inputs, output = layer_io(slim, reader, images)[0], layer_io(dense, reader, images)[1]
    output = output if whole.bias is None else output - whole.bias.detach().view(-1, *[1] * (output.dim() == 4) * 2)
    left = np.arange(len(whole.weight))
    for group in groups:
        for m in group.members:
            if (m.layer, m.side) == (reader, "out"):
                left = m.positions[np.isin(m.units, kept.get(group.name, range(group.size)))]
    dim = output.dim() - 1 if isinstance(whole, nn.Linear) else 1
    y = output.movedim(dim, -1).reshape(-1, len(whole.weight)).numpy()[:, left]
    old = cut.weight.detach().flatten(1).numpy()
    parts = getattr(cut, "groups", 1)
    outs, ins = len(old) // parts, cut.weight.shape[1]
    taps = old.shape[1] // ins
    new, shift = np.zeros_like(old), np.zeros(len(old))
    for g in range(parts):
        rows = slice(g * outs, (g + 1) * outs)
        x, w = columns(cut, inputs, g * ins, ins), old[rows].T
        if name == "repair" and cut.bias is not None:
            ones = np.ones((len(x), 1))
            found = np.linalg.pinv(np.hstack([x, ones])) @ (y[:, rows] - x @ w)  # weights nearest to the old ones
            new[rows], shift[rows] = (w + found[:-1]).T, found[-1]
        elif name in ("cp", "repair"):
            new[rows] = (w + np.linalg.pinv(x) @ (y[:, rows] - x @ w)).T
        else:
            each = range(0, ins * taps, taps)
            terms = np.stack([(x[:, j : j + taps] @ w[j : j + taps]).ravel() for j in each], 1)
            scales = 1 + np.linalg.pinv(terms) @ (y[:, rows].ravel() - terms.sum(1))
            new[rows] = old[rows] * np.repeat(scales, taps)
    return new.reshape(cut.weight.shape), shift


@pytest.mark.parametrize("name", ["cp", "thinet", "repair"])
@pytest.mark.parametrize("net_name", CUTS)
def test_the_refit_is_the_papers_least_squares(net_name, name, monkeypatch):
    monkeypatch.setattr(refit, "RIDGES", refit.RIDGES[:1])  # the papers have no ridge
    net, groups, calibration = case(net_name, n=160)
    kept, order = CUTS[net_name]
    bare, slim = refitted(net, groups, kept, calibration, criterion(name))
    for reader in order:  # each with what the refitted layers before it give
        expected, shift = by_hand(name, net, bare, groups, kept, reader, calibration.images)
        found = slim.get_submodule(reader).weight.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        assert np.abs(found - bare.get_submodule(reader).weight.detach().numpy()).max() > 1e-3
        with torch.no_grad():
            bare.get_submodule(reader).weight.copy_(torch.from_numpy(expected))
            if name == "repair" and bare.get_submodule(reader).bias is not None:
                bare.get_submodule(reader).bias.add_(torch.from_numpy(shift))
    changed = {n for n, p in slim.named_parameters() if not torch.allclose(p, bare.get_parameter(n), 1e-4, 1e-6)}
    assert changed == set()  # nothing but the readers: norms, biases and depthwise filters are as they were


def spanned(name):
    """A net whose first group has a channel that the others make up for exactly, and the units that stay."""
    net, _ = nets.build("plain")
    with torch.no_grad():
        net.bn1.weight.fill_(1)
        net.bn1.running_var.fill_(1)
        net.bn1.running_mean.zero_()
        net.bn1.bias.fill_(9)  # every ReLU is open: channels are linear in the image
        if name == "cp":
            net.conv1.weight[4] = net.conv1.weight[0] + net.conv1.weight[2]
            net.bn1.bias[4] = net.bn1.bias[0] + net.bn1.bias[2]
        else:
            net.conv1.weight[4] = net.conv1.weight[1]
            net.conv2.weight[:, 4] = 2 * net.conv2.weight[:, 1]  # channel 1, three times as strong, replaces both
    return net, {"conv1": (0, 1, 2, 3)}


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_a_channel_that_the_others_make_up_for_leaves_the_output_as_it_was(name):
    net, kept = spanned(name)
    calibration = Calibration(*nets.images(32), 8)
    fresh = nets.images(16, seed=5)[0]
    with torch.no_grad():
        expected = net.eval()(fresh)
        off, on = (
            refitted(net, net.groups(), kept, calibration, criterion(name, points=10, reconstruct=switch))[1](fresh)
            for switch in (False, True)
        )
    scale = expected.abs().max()
    assert (on - expected).abs().max() < 1e-4 * scale
    assert (off - expected).abs().max() > 0.05 * scale


def test_repair_makes_up_for_a_channel_that_the_others_and_a_constant_give():
    """The last convolution's channel 5 is channel 0 plus channel 2 plus 3; the classifier's bias takes the 3."""
    net, _ = nets.build("plain")
    with torch.no_grad():
        net.bn2.weight.fill_(1)
        net.bn2.running_var.fill_(1)
        net.bn2.running_mean.zero_()
        net.bn2.bias.fill_(9)  # every ReLU is open
        for tensor in (net.conv2.weight, net.conv2.bias):
            tensor[5] = tensor[0] + tensor[2]
        net.bn2.bias[5] = net.bn2.bias[0] + net.bn2.bias[2] + 3
    kept, calibration = {"conv2": (0, 1, 2, 3, 4)}, Calibration(*nets.images(32), 8)
    fresh = nets.images(16, seed=5)[0]
    with torch.no_grad():
        expected = net.eval()(fresh)
        by = {"bare": criterion("cp", reconstruct=False), "repair": criterion_named("random", {"repair": "ridge"})}
        found = {name: refitted(net, net.groups(), kept, calibration, one)[1](fresh) for name, one in by.items()}
    scale = expected.abs().max()
    assert (found["repair"] - expected).abs().max() < 1e-4 * scale
    assert (found["bare"] - expected).abs().max() > 0.05 * scale


@pytest.mark.parametrize("name", sorted(registry.importance.entries()))
def test_every_criterion_takes_the_repair_and_scores_as_before(name):
    net, groups, calibration = case("residual", n=12)
    plain, mended = (criterion_named(name, params) for params in ({}, {"repair": "ridge"}))
    first, second = (
        Scorer(one, net, groups, gather(one, net, groups, calibration)).scores() for one in (plain, mended)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    kept = CUTS["residual"][0]
    bare, slim = refitted(net, groups, kept, calibration, mended)
    with torch.no_grad():
        whole, cut, better = (m(calibration.images) for m in (net, bare, slim))
    assert (better - whole).norm() < 0.7 * (cut - whole).norm()


def test_cp_itself_picks_a_channel_of_the_spanned_ones_and_nothing_is_lost():
    net, _ = spanned("cp")
    calibration = Calibration(*nets.images(32), 8)
    cp = criterion("cp", points=10)
    scores = Scorer(cp, net, net.groups(), gather(cp, net, net.groups(), calibration)).scores()[0]
    weakest = int(np.argmin(scores))
    assert weakest in (0, 2, 4)
    kept = {"conv1": [u for u in range(5) if u != weakest]}
    _, slim = refitted(net, net.groups(), kept, calibration, cp)
    fresh = nets.images(16, seed=5)[0]
    with torch.no_grad():
        torch.testing.assert_close(slim.eval()(fresh), net.eval()(fresh), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_both_nets_are_otherwise_as_before(name):
    net, groups, calibration = case("residual")
    net.train()
    before = copy.deepcopy(net.state_dict())
    kept = CUTS["residual"][0]
    _, slim = refitted(net, groups, kept, calibration, criterion(name, points=10))
    _, again = refitted(net, groups, kept, calibration, criterion(name, points=10))
    assert all(torch.equal(a, b) for a, b in zip(slim.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(m.training for model in (net, slim) for m in model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for model in (net, slim) for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in slim.parameters())


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_queries_of_narrower_heads_keep_the_factor_that_surgery_gave_them(name):
    """Two channels of the embedding and half of each head go. Heads of 4 divide by 2, heads of 8 by the root of 8:
    queries must be smaller by the root of a half, and they are after surgery."""
    net = small_vit().eval()
    images = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    groups = trace(net, images[:1], prune=("embed", "head-dim"))
    left = {"head-dim": lambda size: range(0, size, 2), "embed": lambda size: range(size - 2)}
    kept = {g.name: tuple(left[g.part](g.size)) for g in groups}
    calibration = Calibration(images, torch.zeros(128, dtype=torch.long), 64)
    _, slim = refitted(net, groups, kept, calibration, criterion(name, points=17))
    rows = np.concatenate([part * 32 + head * 8 + np.arange(0, 8, 2) for part in range(3) for head in range(4)])
    whole, found = (layer_io(m, "blocks.0.attn.qkv", images)[1] for m in (net, slim))
    for part, factor in enumerate((0.5**0.5, 1, 1)):
        expected, got = whole[..., rows[part * 16 : part * 16 + 16]], found[..., part * 16 : part * 16 + 16]
        slope = (got * expected).sum() / expected.square().sum()
        assert abs(slope / factor - 1) < 0.08, f"{'qkv'[part]}: {slope:.3f}"


def test_values_that_are_not_finite_are_filed_under_the_stage_that_asked():
    net, groups, calibration = case("plain")
    kept = CUTS["plain"][0]
    slim = copy.deepcopy(net)
    surgery.apply(slim, groups, kept)
    with torch.no_grad():
        slim.bn1.bias[0] = float("nan")
    with pytest.raises(StageError, match="bn1") as caught:
        reconstruct(criterion("cp"), net, slim, groups, kept, calibration, stage="surgery")
    assert caught.value.stage == "surgery"


class Counting(registry.importance.load("cp")):
    """CP that notes how many points each layer is refitted to."""

    def __init__(self, points):
        super().__init__(points)
        object.__setattr__(self, "counts", {})

    def refit(self, problem):
        self.counts[problem.name] = problem.target.shape[1]
        return super().refit(problem)


@pytest.mark.parametrize("points", [1, 3, 10])
def test_windows_are_no_more_points_than_images(points):
    net = small_swin().eval()
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    groups = trace(net, images[:1], prune=("embed", "mlp"))
    kept = {g.name: range(g.size - 2) for g in groups}
    counting = Counting(points)
    refitted(net, groups, kept, Calibration(images, torch.zeros(16, dtype=torch.long), 8), counting)
    windowed = [n for name, n in counting.counts.items() if name.endswith("qkv")]
    assert len(windowed) == 4
    assert max(counting.counts.values()) <= points * 16 < 2 * min(windowed)


def test_large_activations_mean_fewer_images_with_more_points_each(monkeypatch):
    net, groups, calibration = case("plain", n=32)
    monkeypatch.setattr("raybench.selection.refit.MOST_VALUES", 8 * 5 * 8 * 8)  # conv1 gives 5 x 8 x 8 values
    counting = Counting(2)
    refitted(net, groups, CUTS["plain"][0], calibration, counting)
    assert counting.counts == {"conv2": 64, "fc": 8}  # 8 images, 8 locations of each; a classifier has one


def test_a_layer_that_runs_twice_keeps_its_weights():
    class Twice(nets.Plain):
        def forward(self, x):
            return super().forward(x) + super().forward(x.flip(3))

    net = Twice()
    _, slim = refitted(net, net.groups(), {"conv1": (0, 2, 3)}, Calibration(*nets.images(8), 8), criterion("cp"))
    assert torch.equal(slim.conv2.weight, net.conv2.weight[:, [0, 2, 3]])


def test_fewer_points_than_weights_change_no_more_than_they_must():
    """40 points, 540 weights a filter: 9 taps of 60 channels: the old weights stay where the points don't tell."""
    torch.manual_seed(0)
    net = nets.Plain(width=64, out=4).double().eval()
    calibration = Calibration(nets.images(4)[0].double(), nets.images(4)[1], 4)
    kept = {"conv1": range(60)}
    bare, slim = refitted(net, net.groups(), kept, calibration, criterion("cp", points=10))
    with torch.no_grad():
        before, after = (m.conv2(F.relu(m.bn1(m.conv1(calibration.images)))) for m in (bare, slim))
        whole = net.conv2(F.relu(net.bn1(net.conv1(calibration.images))))
    assert (after - whole).norm() < 0.7 * (before - whole).norm()
    assert (slim.conv2.weight - bare.conv2.weight).norm() < 0.5 * bare.conv2.weight.norm()


@pytest.mark.parametrize("fit", [refit.least_squares, refit.channel_scales])
@pytest.mark.parametrize("columns", [96, 128, 160])
def test_as_many_columns_as_points_are_not_worse_than_no_refit(columns, fit):
    """A classifier that reads pooled features, one point an image: plain least squares sits on the interpolation
    peak where points (128, or the 96 that aren't held out) and columns are as many."""
    draw = torch.Generator().manual_seed(0)
    mix, noise = torch.randn(64, 256, generator=draw).double() / 8, 0.3
    weight = torch.randn(256, 10, generator=draw).double() / 16

    def features(n):
        hidden, own = torch.randn(n, 64, generator=draw).double(), torch.randn(n, 256, generator=draw).double()
        return torch.relu(hidden @ mix + noise * own)

    seen, unseen = features(128), features(1000)
    old, target = weight[:columns], seen @ weight
    new = fit(RefitProblem("fc", seen[None, :, :columns, None], old[None, :, None], target[None]))[0, :, 0]
    before, after = (unseen[:, :columns] @ w - unseen @ weight for w in (old, new))
    assert after.norm() < 0.95 * before.norm()


@pytest.mark.parametrize("fit", [refit.least_squares, refit.channel_scales])
def test_a_fit_that_does_not_carry_over_to_held_out_points_is_not_used(fit):
    draw = torch.Generator().manual_seed(0)
    inputs, weight, noise = (torch.randn(*s, generator=draw).double() for s in ((32, 24), (24, 3), (32, 3)))
    problem = RefitProblem("fc", inputs[None, ..., None], weight[None, :, None], (inputs @ weight + noise)[None])
    assert torch.equal(fit(problem), problem.weight)  # what is left is noise alone
    few = RefitProblem("fc", problem.inputs[:, :3], problem.weight, problem.target[:, :3])
    assert torch.equal(fit(few), few.weight)


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_iterative_selections_with_refits_repeat(name):
    net, groups = nets.build("residual")
    net.eval()
    calibration = Calibration(*nets.images(16), 8)
    image = torch.zeros(1, 3, 8, 8)
    first, again = (
        select(Scoring(criterion(name, points=10), net, calibration), image, groups, [2.0], schedule="iterative")
        for _ in range(2)
    )
    assert first[2.0].kept == again[2.0].kept
