"""Scores that follow removals on paper equal the oracles' scores of the network that is really cut."""

import copy

import numpy as np
import pytest
import torch

from raybench import registry
from raybench.errors import StageError
from raybench.groups import surgery
from raybench.methods.pairs import FilterDistances
from raybench.scoring.scorer import Scorer
from tests.oracles import formulas, nets
from tests.pruning_nets import drop_one_each

NAMES = ("magnitude-l1", "lamp", "fpgm", "bn-scale")


def cut(net, groups, alive):
    """(the net without the dead units, its groups)."""
    kept = {group.name: np.nonzero(left)[0] for group, left in zip(groups, alive, strict=True)}
    slim = copy.deepcopy(net)
    surgery.apply(slim, groups, kept)
    return slim, surgery.narrowed(groups, kept)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net_name", ["plain", "residual", "depthwise", "grouped"])
def test_scores_on_paper_are_those_of_the_cut_net(net_name, name):
    net, groups = nets.build(net_name)
    scorer = Scorer(registry.importance.load(name)(), net, groups)
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    rng = np.random.default_rng(0)
    for _ in range(3):
        drop_one_each(alive, rng)
        found = scorer.scores(alive)
        slim, narrow = cut(net, groups, alive)
        expected = formulas.unit_scores(name, slim, narrow, *nets.images(2), 2)
        for ours, theirs, left in zip(found, expected, alive, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                np.testing.assert_allclose(ours[left], theirs, rtol=1e-5, atol=1e-9)


def test_fpgm_follows_a_wide_layer_through_many_steps():
    """More filters than a block, dead ones taken out on the way, duplicates at distance zero."""
    net = nets.Plain(width=300, out=40)
    with torch.no_grad():
        net.conv2.weight[7] = net.conv2.weight[3]
    groups = net.groups()
    criterion = registry.importance.load("fpgm")()
    scorer = Scorer(criterion, net, groups)
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    rng = np.random.default_rng(0)
    for _ in range(25):
        for left, count in zip(alive, (10, 1), strict=True):
            left[rng.choice(np.nonzero(left)[0], count, replace=False)] = False
        alive[1][[3, 7]] = True
        found = scorer.scores(alive)
    slim, narrow = cut(net, groups, alive)
    for group, ours, left in zip(narrow, found, alive, strict=True):
        wide = torch.cdist(*(slim.get_submodule(group.members[0].layer).weight.detach().double().flatten(1),) * 2)
        np.testing.assert_allclose(ours[left], (wide.sum(1) / wide.sum(1).mean()).numpy(), rtol=1e-6)
        assert len(left) > left.sum()


def test_filters_of_every_shape_are_compared():
    """Linear rows, 1-d kernels and depthwise filters (one input each) are filters as well."""
    for weight in (torch.randn(5, 7), torch.randn(5, 7, 3), torch.randn(5, 1, 3, 3)):
        found = FilterDistances(weight).sums(torch.sqrt)
        np.testing.assert_allclose(found, torch.cdist(*(weight.double().flatten(1),) * 2).sum(1), rtol=1e-6)


def test_a_nan_weight_ends_the_scoring():
    net, groups = nets.build("plain")
    with torch.no_grad():
        net.conv1.weight[1, 0, 0, 0] = float("nan")
    with pytest.raises(StageError, match="group 'conv1' are not finite"):
        Scorer(registry.importance.load("fpgm")(), net, groups)
