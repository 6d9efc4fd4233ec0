"""What a criterion returns is checked while it scores, and its file before it is imported."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from raybench import registry
from raybench.errors import NotSupported, StageError, UserError
from raybench.methods.layers import by_channel
from raybench.methods.protocols import ElementwiseImportance, Importance, Layer
from raybench.registry import Registry
from raybench.reports.labels import unique_labels
from raybench.scoring.scorer import Scoring
from raybench.testing.conformance import check_file, check_importance
from raybench.testing.samples import sample, tokens


@dataclass(frozen=True)
class Returns(Importance):
    """Returns what a function makes of a layer."""

    make: object = None
    needs = "weights"

    def layer_scores(self, layer):
        return self.make(layer)


@dataclass(frozen=True)
class Saliency(ElementwiseImportance):
    """Saliencies that a function makes of a layer."""

    make: object = None

    def saliency(self, layer):
        return self.make(layer)


WRONG = {
    "too few": (lambda layer: torch.ones(layer.weight.shape[0] - 1), r"found the shape \(7,\), expected \(8,\)"),
    "too many": (lambda layer: torch.ones(layer.weight.shape[0] + 1), r"found the shape \(9,\), expected \(8,\)"),
    "a column": (lambda layer: torch.ones(layer.weight.shape[0], 1), r"found the shape \(8, 1\), expected \(8,\)"),
    "a list": (lambda layer: [1.0] * 8, r"found list, expected a tensor \(8,\)"),
    "negative": (lambda layer: -torch.ones(layer.weight.shape[0]), "found negative scores, expected 0 or more"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_scores_are_told_with_criterion_and_layer(case):
    make, message = WRONG[case]
    net, groups, _ = sample()
    with pytest.raises(StageError, match=r"Returns\.layer_scores of layer 'stem' \(conv, out side\): " + message):
        Scoring(Returns(make), net).scorer(groups)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layer: layer.weight.abs().sum(1), "expected"),
        (lambda layer: layer.weight, "found negative scores"),
        (lambda layer: None, "found NoneType, expected a tensor"),
    ],
)
def test_wrong_saliencies_are_told(make, message):
    net, groups, _ = sample()
    with pytest.raises(StageError, match=r"Saliency\.saliency of layer 'stem'.*" + message):
        Scoring(Saliency(make), net).scorer(groups)


@dataclass(frozen=True)
class ByTokens(Importance):
    """A criterion for maps that takes tokens for channels: wrong on every network of tokens."""

    needs = "activations"

    def observe(self, layer, inputs, output, state):
        values = output if layer.side == "out" else inputs
        return values.var(0, unbiased=False).flatten(1).mean(1) if values.dim() > 2 else values.var(0)

    def layer_scores(self, layer):
        return layer.state


def test_conformance_finds_what_only_fails_on_tokens():
    with pytest.raises((AssertionError, StageError), match=r"shape \(16,\)"):
        check_importance(ByTokens())


@dataclass
class Changeable(Importance):
    """Not frozen."""

    def layer_scores(self, layer):
        return layer.weight.abs().flatten(1).sum(1)


def test_conformance_asks_for_a_frozen_class():
    with pytest.raises(AssertionError, match="Changeable can be changed"):
        check_importance(Changeable())


FILE = '''
from dataclasses import dataclass
from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance

@importance("{name}", limits={{"power": (0, 3)}})
@dataclass(frozen=True)
class Own(ElementwiseImportance):
    """One."""
    power: float = {power}

    def saliency(self, layer):
        return layer.weight.abs() ** self.power
'''


@pytest.mark.parametrize(
    ("name", "power", "message"),
    [
        ("Act_Var", 1.0, "found the name 'Act_Var', expected lower case"),
        ("a+b", 1.0, "found the name 'a"),
        ("own", -1.0, "the default of power: found -1.0, expected 0 to 3"),
    ],
)
def test_a_name_that_no_sweep_can_spell_and_a_default_outside_its_limits(name, power, message, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "importance", Registry("importance", "raybench.methods.importance"))
    file = tmp_path / "own.py"
    file.write_text(FILE.format(name=name, power=power))
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        check_file(file)


SHAPES = [  # (layer, shape of the values, channels, the rest)
    (Layer("a", "conv", "in", torch.zeros(3, 2, 1, 1)), (2, 3, 4, 5), (3, 40)),
    (Layer("a", "linear", "out", torch.zeros(3, 2)), (2, 3), (3, 2)),
    (Layer("a", "linear", "out", torch.zeros(3, 2)), (2, 7, 3), (3, 14)),
    (Layer("a", "norm", "out", torch.zeros(3, 1), module=nn.BatchNorm2d(3)), (2, 3, 4, 4), (3, 32)),
    (Layer("a", "norm", "out", torch.zeros(3, 1), module=nn.LayerNorm(3)), (2, 3, 3), (3, 6)),
    (Layer("a", "norm", "out", torch.zeros(3, 1), module=nn.RMSNorm(3)), (2, 9, 9, 3), (3, 162)),
    (Layer("a", "norm", "out", torch.zeros(3, 1), module=nn.GroupNorm(1, 3)), (2, 3, 3, 3), (3, 18)),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), SHAPES)
def test_channels_are_found_wherever_a_kind_of_layer_has_them(layer, shape, expected):
    axis = shape.index(3) if layer.kind == "conv" or type(layer.module).__name__ in ("BatchNorm2d", "GroupNorm") else -1
    values = torch.rand(shape)
    rows = by_channel(layer, values)
    assert rows.shape == expected
    assert torch.equal(rows[1].sort().values, values.select(axis, 1).flatten().sort().values)


def test_channels_that_are_not_there_are_told():
    with pytest.raises(NotSupported, match="a: found the shape"):
        by_channel(SHAPES[0][0], torch.zeros(2, 4, 3, 3))


def test_the_networks_of_the_check_compute():
    for net, groups, calibration in (sample(), tokens()):
        assert net(calibration.images).shape == (12, 4)
        assert [group.size for group in groups] == [8, 8]


def test_two_contents_of_one_file_have_short_labels():
    trials = {
        name: {"importance": {"name": "own", "params": {}, "source": name * 64}, "recipe": {"name": "quick"}}
        for name in "ab"
    }
    rows = [{"config_id": name, "method": "own", "trial_id": name} for name in "ab"]
    labels = unique_labels(rows, lambda ids: {one: trials[one] for one in ids}, ("method",))
    assert labels == {"a": "own (file=aaaaaaaa)", "b": "own (file=bbbbbbbb)"}
