"""Every criterion against its oracle, and every oracle against a criterion that lacks one term."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raybench import registry
from raybench.errors import NotSupported, UserError
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from tests.oracles import formulas, nets

BATCH = 4
UNSCORABLE = {
    ("attention", "hrank"),
    ("attention", "chip"),
    ("attention", "bn-scale"),
}  # no feature maps, no batch norm
CASES = [(net, name) for net in nets.NETS for name in formulas.WAYS if (net, name) not in UNSCORABLE]
DATA = ("taylor", "obd-c", "obd-hessian", "hrank", "chip", "thinet", "cp")
READS_NORMS = ("magnitude-l1", "magnitude-l2", "lamp", "bn-scale", "taylor", "obd-c/all", "obd-hessian", "lookahead")
PARAMS = {  # of what is behind the slash in an oracle's name; every location counts for CP and ThiNet, as in the oracle
    "obd-c/all": {"sides": "all"},
    "obd-c/sums": {"shares": False},
    "magnitude-l2/max": {"normalize": "max"},
    "cp": {"points": 10**6},
    "thinet": {"points": 10**6},
}


def ours(name, net, groups, images, labels):
    """Normalised unit scores, one array a group."""
    criterion = registry.importance.load(name.partition("/")[0])(**PARAMS.get(name, {}))
    evidence = gather(criterion, net, groups, Calibration(images, labels, BATCH))
    return Scorer(criterion, net, groups, evidence).scores()


def case(net_name, n=6):
    net, groups = nets.build(net_name)
    images, labels = nets.images(n)
    return net.double(), groups, images.double(), labels


def error(found, expected):
    """Largest relative difference over all units, by the oracle's value; inf where one of the two has no score."""
    if any((f is None) != (e is None) for f, e in zip(found, expected, strict=True)):
        return np.inf
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    return max(np.max(np.abs(f - e) / np.maximum(np.abs(e), 1e-12)) for f, e in pairs)


@pytest.mark.parametrize(("net_name", "name"), CASES)
def test_scores_equal_the_papers_formula(net_name, name):
    net, groups, images, labels = case(net_name)
    expected = formulas.unit_scores(name, net, groups, images, labels, BATCH)
    assert error(ours(name, net, groups, images, labels), expected) < 1e-5


def without(groups, drop):
    """`groups` without the members that `drop` picks."""
    return Groups(tuple(replace(g, members=tuple(m for m in g.members if not drop(m))) for g in groups))


def mutant_error(name, net_name, drop_member=None, drop_image=False):
    net, groups, images, labels = case(net_name)
    expected = formulas.unit_scores(name, net, groups, images, labels, BATCH)
    mutated = without(groups, drop_member) if drop_member else groups
    kept = slice(0, -1) if drop_image else slice(None)
    return error(ours(name, net, mutated, images[kept], labels[kept]), expected)


@pytest.mark.parametrize("name", [n for n in READS_NORMS if n != "bn-scale"])
def test_an_oracle_notices_missing_norm_scales(name):
    assert mutant_error(name, "plain", drop_member=lambda m: m.kind == "norm") > 1e-3


@pytest.mark.parametrize("name", [n for n in formulas.WAYS if n not in ("hrank", "chip", "thinet", "cp")])
def test_an_oracle_notices_a_missing_residual_member(name):
    assert mutant_error(name, "residual", drop_member=lambda m: m.layer in ("conv2", "bn2")) > 1e-3


@pytest.mark.parametrize("name", ["hrank", "chip", "thinet", "cp"])
def test_an_oracle_notices_a_missing_reader_of_a_residual_trunk(name):
    assert mutant_error(name, "residual", drop_member=lambda m: m.layer == "conv1" and m.side == "in") > 1e-3


@pytest.mark.parametrize("name", DATA)
def test_an_oracle_notices_a_missing_sample(name):
    assert mutant_error(name, "plain", drop_image=True) > 1e-5


@pytest.mark.parametrize("name", ["magnitude-l1", "fpgm", "taylor", "obd-hessian"])
def test_an_oracle_notices_missing_depthwise_filters(name):
    assert mutant_error(name, "depthwise", drop_member=lambda m: m.kind == "depthwise") > 1e-3


@pytest.mark.parametrize("net_name", ["attention"])
def test_criteria_say_what_they_cannot_score(net_name):
    net, groups, images, labels = case(net_name)
    for name in ("hrank", "chip"):
        with pytest.raises(NotSupported, match=rf"{name} can't score \S+: .* maps"):
            ours(name, net, groups, images, labels)
    assert registry.importance.entry("bn-scale").facts["requires"] == "batch-norm"
    assert all(scores is None for scores in ours("bn-scale", net, groups, images, labels))


def test_random_depends_on_the_seed_and_the_group_alone():
    net, groups = nets.build("plain")
    criterion = registry.importance.load("random")()
    first = Scorer(criterion, net, groups, None, seed=3).scores()
    torch.rand(7)
    again = Scorer(criterion, net, groups, None, seed=3).scores()
    other = Scorer(criterion, net, groups, None, seed=4).scores()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({tuple(s[:4]) for s in first}) == len(groups)
    wide = nets.Plain(width=4000)
    draws = Scorer(criterion, wide, wide.groups(), None, seed=0).scores()[0]
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(np.quantile(draws, 0.25) - 0.25) < 0.03


@pytest.mark.parametrize(("name", "params"), [("obd-c", {"sides": "in"}), ("magnitude-l2", {"normalize": "sum"})])
def test_a_word_that_a_criterion_does_not_know_is_refused(name, params):
    with pytest.raises(UserError, match=f"{name}: found .*, expected "):
        registry.importance.load(name)(**params)
