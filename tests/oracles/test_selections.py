"""Crafted nets where the right channel to remove is known beforehand."""

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.methods.independence import independence
from raybench.methods.lasso import entry_penalties
from raybench.methods.protocols import Calibration
from raybench.methods.ranks import certified, map_ranks
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from tests.oracles import nets

ALL = sorted(registry.importance.entries())
CHEAP = 2  # the channel that ought to go


def weakest(name, net, **params):
    """The lowest-scored unit of the first group."""
    images, labels = nets.images(16)
    criterion = registry.importance.load(name)(**params)
    groups = net.groups()
    evidence = gather(criterion, net, groups, Calibration(images, labels, 8))
    scores = Scorer(criterion, net, groups, evidence).scores()[0]
    assert np.sort(scores)[0] < 0.9 * np.sort(scores)[1], "the lowest score must stand out"
    return int(np.argmin(scores))


def plain(seed=0):
    net, _ = nets.build("plain", seed)
    nn.init.uniform_(net.bn1.bias, 0.1, 0.3)  # every ReLU fires somewhere
    net.bn1.running_mean.zero_()
    return net


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("random", "uniform", "fpgm")])
def test_a_dead_filter_goes_first(name):
    net = plain()
    with torch.no_grad():
        net.conv1.weight[CHEAP] = 0
        net.bn1.weight[CHEAP] = net.bn1.bias[CHEAP] = net.bn1.running_mean[CHEAP] = 0
        net.conv2.weight[:, CHEAP] = 0
    assert weakest(name, net) == CHEAP


def test_fpgm_removes_the_filter_amid_the_others_not_the_smallest():
    net = plain()
    with torch.no_grad():
        net.conv1.weight[0] = 0.01  # small but far from the rest
        net.conv1.weight[1:] = 1 + 0.3 * torch.randn_like(net.conv1.weight[1:])
        net.conv1.weight[CHEAP] = net.conv1.weight[[1, 3, 4]].mean(0)
    assert weakest("fpgm", net) == CHEAP
    norms = net.conv1.weight.detach().flatten(1).norm(dim=1)
    assert int(norms.argmin()) == 0


@pytest.mark.parametrize("name", ["cp", "fpgm"])
def test_a_duplicated_filter_is_noticed(name):
    net = plain()
    with torch.no_grad():
        for tensor in (net.conv1.weight, net.bn1.weight, net.bn1.bias, net.bn1.running_mean, net.bn1.running_var):
            tensor[3] = tensor[1]
        net.conv2.weight[:, 3] = net.conv2.weight[:, 1]
    criterion = registry.importance.load(name)()
    evidence = gather(criterion, net, net.groups(), Calibration(*nets.images(16), 8))
    scores = Scorer(criterion, net, net.groups(), evidence).scores()[0]
    if name == "cp":  # one of the two carries both, the other isn't needed
        assert min(scores[1], scores[3]) == 0 < max(scores[1], scores[3])
    else:  # equally far from everything
        assert scores[1] == pytest.approx(scores[3], rel=1e-6)


def test_cp_never_keeps_a_channel_that_the_others_reconstruct_exactly():
    generator = np.random.default_rng(0)
    terms = generator.standard_normal((5, 200))
    terms[4] = 0.5 * terms[0] - 0.25 * terms[1]
    scores = entry_penalties(terms @ terms.T)
    spanned = scores[[0, 1, 4]]
    assert (spanned == 0).sum() == 1  # any one of the three is the other two's sum
    assert (scores[[2, 3]] > 0).all()


def test_thinet_drops_channels_that_cancel_each_other():
    net = plain()
    with torch.no_grad():
        for tensor in (net.conv1.weight, net.bn1.weight, net.bn1.bias, net.bn1.running_mean, net.bn1.running_var):
            tensor[3] = tensor[1]
        net.conv2.weight[:, 3] = -net.conv2.weight[:, 1]  # together they give nothing
    criterion = registry.importance.load("thinet")()
    evidence = gather(criterion, net, net.groups(), Calibration(*nets.images(16), 8))
    scores = Scorer(criterion, net, net.groups(), evidence).scores()[0]
    order = list(np.argsort(scores))
    assert abs(order.index(1) - order.index(3)) == 1


def test_hrank_removes_the_channel_with_rank_one_maps():
    net = plain()
    with torch.no_grad():
        net.bn1.weight[CHEAP] = 0
        net.bn1.bias[CHEAP] = 100.0  # large and constant: rank one
        net.conv2.weight[:, CHEAP] = 9.0  # magnitude would keep it
    assert weakest("hrank", net) == CHEAP
    assert weakest("bn-scale", net) == CHEAP


def test_chip_removes_the_channel_that_another_one_repeats():
    net = plain()
    with torch.no_grad():
        twin = CHEAP - 1
        for parameter in (net.conv1.weight, net.bn1.weight, net.bn1.bias, net.bn1.running_mean, net.bn1.running_var):
            parameter[CHEAP] = parameter[twin]
        net.bn1.weight[CHEAP] *= 0.9  # the weaker of the two
        net.bn1.bias[CHEAP] *= 0.9
        net.conv2.weight[:, CHEAP] = 9.0  # magnitude would keep it
    assert weakest("chip", net) == CHEAP


@pytest.mark.parametrize("shape", [(4, 16, 64), (2, 24, 6), (3, 5, 1), (3, 1, 9), (2, 12, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_independence_is_the_nuclear_norm_that_a_row_adds(shape, dtype, monkeypatch):
    """Zero rows, equal rows, rows that are sums of others, an empty matrix, and parts of one matrix at a time."""
    maps = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype).clamp(min=0)
    if shape[1] > 4:
        maps[:, 0], maps[:, 1], maps[:, 2] = 0, maps[:, 3], maps[:, 3] + maps[:, 4]
        maps[0] = 0
    expected = torch.linalg.matrix_norm(maps.double(), "nuc")[:, None].repeat(1, shape[1])
    for row in range(shape[1]):
        rest = maps.double().clone()
        rest[:, row] = 0
        expected[:, row] -= torch.linalg.matrix_norm(rest, "nuc")
    found = independence(maps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * float(maps.norm()))
    monkeypatch.setattr("raybench.methods.independence.AT_ONCE", 1)
    torch.testing.assert_close(independence(maps), found, rtol=1e-12, atol=1e-12)


def matrices():
    """(n, 6, 6) float32 maps of every kind: zero, rank one, zero rows, low rank, nearly singular, full."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    kinds = [torch.zeros(3, 6, 6), random(8, 6, 1) @ random(8, 1, 6), random(40, 6, 6), random(40, 6, 6).clamp(min=0)]
    kinds += [random(20, 6, 2) @ random(20, 2, 6), (random(40, 6, 6) - 1).clamp(min=0), torch.ones(2, 6, 6)]
    for size in (1e-3, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8):  # around the tolerance of 7e-7
        u, s, v = torch.linalg.svd(random(30, 6, 6))
        s[:, -1] = s[:, 0] * size
        kinds.append(u @ torch.diag_embed(s) @ v)
    return torch.cat(kinds)


@pytest.mark.parametrize("cut", [(6, 6), (6, 4), (3, 6), (2, 2), (1, 6), (1, 1)])
def test_ranks_are_exactly_those_of_matrix_rank(cut):
    maps = matrices()[:, : cut[0], : cut[1]]
    expected = torch.linalg.matrix_rank(maps)
    assert torch.equal(map_ranks(maps), expected)
    assert torch.equal(map_ranks(maps.double()), torch.linalg.matrix_rank(maps.double()))


def test_the_certificate_is_never_wrong_and_often_enough():
    maps = matrices()
    bound, proven = certified(maps)
    assert torch.equal(bound[proven], torch.linalg.matrix_rank(maps)[proven])
    dense = torch.randn(500, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(min=0)
    assert certified(dense)[1].float().mean() > 0.9


@pytest.mark.parametrize(("n", "points"), [(12, 200), (30, 31), (40, 25)])
def test_the_lasso_path_is_sklearns(n, points):
    from sklearn.linear_model import lars_path_gram

    generator = np.random.default_rng(n)
    terms = np.maximum(generator.standard_normal((n, points)), 0) * generator.standard_normal((n, 1))
    gram = terms @ terms.T
    penalties, _, paths = lars_path_gram(gram.sum(1), gram, n_samples=1, method="lasso", max_iter=20 * n)
    active = paths != 0
    entered = np.where(active.any(1), penalties[np.maximum(active.argmax(1) - 1, 0)], 0) / gram.sum()
    found = entry_penalties(gram)
    large = entered > 1e-6 * entered.max()  # below, a rank-deficient path is rounding
    np.testing.assert_allclose(found[large], entered[large], rtol=1e-6)
    assert (found[~large] <= 2e-6 * entered.max()).all()
