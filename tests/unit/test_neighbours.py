"""Energies of a layer's neighbours, by hand, and scores that follow when neighbours lose channels."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.methods.protocols import Importance
from raybench.scoring.gather import gather
from raybench.scoring.neighbours import Energies, RunningProducts, WithNeighbours
from raybench.scoring.scorer import Scorer, Scoring
from raybench.selection.select import select
from tests.oracles import nets
from tests.pruning_nets import small_vit
from tests.unit.cuts import IMAGE

LOOKAHEAD = registry.importance.load("lookahead")()


class Blocks(nn.Module):
    """A stem, a block around which an identity goes, a block beside a projection, a depthwise one, and flattening."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(2, eps=1e-30)  # torch 2.11 refuses 0
        self.inner = nn.Conv2d(2, 3, 1, bias=False)
        self.end = nn.Conv2d(3, 2, 1, bias=False)
        self.wider = nn.Conv2d(2, 4, 1, bias=False)
        self.beside = nn.Conv2d(2, 4, 1, bias=False)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.narrow = nn.Conv2d(4, 2, 1, bias=False)
        self.fc = nn.Linear(2 * 4, 5, bias=False)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.end(torch.relu(self.inner(x))))
        x = torch.relu(self.wider(x) + self.beside(x))
        return self.fc(self.narrow(torch.relu(self.deep(x))).flatten(1))


def constant(values):
    """Blocks with every weight of a layer the same, and its groups."""
    net = Blocks().eval()
    with torch.no_grad():
        for name, value in values.items():
            net.get_submodule(name).weight.fill_(value)
        net.bn.weight.fill_(3.0)
        net.bn.running_var.fill_(4.0)
    return net, trace(net, torch.zeros(1, 3, 2, 2))


WEIGHTS = {"stem": 1, "inner": 2, "end": 0.5, "wider": 3, "beside": 5, "deep": 0.1, "narrow": 0.25, "fc": 1.5}
FILTERS = {"stem": 3, "inner": 2 * 4, "end": 3 * 0.25, "wider": 2 * 9, "beside": 2 * 25, "deep": 0.09, "narrow": 4 / 16}
SLICES = {"inner": 3 * 4, "end": 2 * 0.25, "wider": 4 * 9, "beside": 4 * 25, "deep": 0.09, "narrow": 2 / 16}
BN = 9 / 4


@pytest.mark.parametrize(
    ("layer", "before", "after"),
    [
        ("stem", 1, BN * SLICES["inner"] + 1),  # nothing before it; an identity goes around what reads it
        ("inner", BN * FILTERS["stem"], SLICES["end"]),
        ("end", FILTERS["inner"], SLICES["wider"] + SLICES["beside"]),  # read twice
        ("wider", FILTERS["end"] + 1, SLICES["deep"]),  # the block, and the identity around it
        ("beside", FILTERS["end"] + 1, SLICES["deep"]),
        ("deep", FILTERS["wider"] + FILTERS["beside"], SLICES["narrow"]),  # two that write
        ("narrow", FILTERS["deep"], 4 * 5 * 1.5**2),  # each channel is read at four places
        ("fc", FILTERS["narrow"], 1),  # nothing reads it
    ],
)
def test_energies_are_those_of_the_neighbours(layer, before, after):
    net, groups = constant(WEIGHTS)
    found = Energies(net, groups).around()
    np.testing.assert_allclose(found.before[layer], before, rtol=1e-6)
    np.testing.assert_allclose(found.after[layer], after, rtol=1e-6)


def test_a_filter_that_nobody_listens_to_goes_before_a_small_one():
    net, groups = nets.build("plain")
    with torch.no_grad():
        net.conv1.weight[2] *= 3  # the largest filter,
        net.conv2.weight[:, 2] *= 0.001  # hardly read
    scores = Scorer(LOOKAHEAD, net, groups).scores()[0]
    assert int(np.argmin(scores)) == 2
    l2 = Scorer(registry.importance.load("magnitude-l2")(), net, groups).scores()[0]
    assert int(np.argmin(l2)) != 2


CUT = {
    **{name: partial(nets.build, name) for name in ("plain", "residual", "depthwise", "grouped")},
    "blocks": partial(constant, WEIGHTS),
    "vit": lambda: _traced(small_vit()),
}


def _traced(net):
    net = net.eval()
    return net, trace(net, IMAGE, prune=("embed", "mlp"))  # narrower heads rescale the queries


@pytest.mark.parametrize("name", CUT)
def test_scores_of_what_is_left_are_those_of_the_cut_network(name):
    torch.manual_seed(0)
    net, groups = CUT[name]()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    scorer = Scorer(LOOKAHEAD, net, groups)
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    for g, left in enumerate(alive):  # one group after the other: the neighbours of each change
        left[g % len(left)] = False
        kept = {group.name: np.nonzero(a)[0] for group, a in zip(groups, alive, strict=True)}
        slim = copy.deepcopy(net)
        surgery.apply(slim, groups, kept)
        fresh = Scorer(LOOKAHEAD, slim, surgery.narrowed(groups, kept)).scores()
        for found, expected, units in zip(scorer.scores(alive), fresh, alive, strict=True):
            np.testing.assert_allclose(found[units], expected, rtol=1e-4)


class General(type(LOOKAHEAD)):
    """The same formula as a method of its own, which is scored without knowing its form."""

    def layer_scores(self, layer):
        return super().layer_scores(layer)


@pytest.mark.parametrize("name", CUT)
def test_the_fast_form_scores_as_any_criterion_with_neighbours_is_scored(name):
    net, groups = CUT[name]()
    fast, general = Scorer(LOOKAHEAD, net, groups), Scorer(General(), net, groups)
    assert (type(fast._raw), type(general._raw)) == (RunningProducts, WithNeighbours)
    alive = [np.ones(group.size, dtype=bool) for group in groups]
    for g, left in enumerate(alive):
        left[g % len(left)] = False
        for found, expected in zip(fast.scores(alive), general.scores(alive), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    whole = zip(fast.scores(), general.scores(), strict=True)  # all is back
    assert all(np.allclose(found, expected, rtol=1e-5) for found, expected in whole)


def test_energies_are_gathered_for_what_the_scorer_does_not_follow():
    net, groups = CUT["blocks"]()
    assert not gather(LOOKAHEAD, net, groups, None).before
    once = type("Once", (Importance,), {"needs": "nothing", "neighbours": True})()
    assert gather(once, net, groups, None).before.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("protocol", ["raybench", "pruningbench"])
def test_a_network_is_cut_by_it(protocol):
    net, groups = nets.build("residual")
    cut = select(Scoring(LOOKAHEAD, net.eval()), IMAGE, groups, [1.5], protocol=protocol, steps=20)[1.5]
    assert cut.speedup >= 1.45 or cut.reason
    assert any(len(kept) < group.size for group, kept in zip(groups, cut.kept.values(), strict=True))
