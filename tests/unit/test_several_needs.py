"""Criteria that need several kinds of evidence: what they are given, how mistakes are told, new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raybench
from raybench import registry
from raybench.catalogue import read_entries
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.methods.protocols import ElementwiseImportance, Importance, Layer, has_filters
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from raybench.testing.conformance import check_file, check_importance, sample


@dataclass(frozen=True)
class MapTaylor(Importance):
    """|mean over positions of a dL/da|, summed over images (Molchanov et al., 2017)."""

    needs = ("activations", "gradients")

    def watched(self, group):
        return tuple(member for member in group.members if has_filters(member))

    def observe_gradient(self, layer: Layer, output: Tensor, gradient: Tensor, state: Any) -> Any:
        product = (output * gradient).movedim(-1 if layer.kind == "linear" else 1, 1)
        return product.flatten(2).mean(2).abs().sum(0) + (0.0 if state is None else state)

    def layer_scores(self, layer: Layer) -> Tensor | None:
        return layer.state


@dataclass(frozen=True)
class Noise(ElementwiseImportance):
    """Signal-to-noise ratio of the gradient of each weight."""

    needs = ("sample-gradients", "gradients")

    def saliency(self, layer: Layer) -> Tensor:
        signal = layer.gradient.square()
        return signal / ((layer.gradient_square - signal).clamp(min=0) + 1e-12)


class InPlace(nn.Module):
    """A network whose activations overwrite the outputs of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.stem(x))
        return self.fc(torch.relu_(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("criterion", [MapTaylor(), Noise()])
def test_they_keep_the_contract(criterion) -> None:
    check_importance(criterion)


def test_feature_map_taylor_is_the_product_of_output_and_its_gradient_image_by_image() -> None:
    torch.manual_seed(0)
    net = InPlace().eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.randint(0, 4, (6,))
    expected = torch.zeros(8)
    for image, label in zip(images, labels, strict=True):
        out = net.stem(image[None])
        out.retain_grad()
        scores = net.fc(torch.relu(net.conv(torch.relu(out))).mean((2, 3)))
        nn.functional.cross_entropy(scores, label[None]).backward()
        expected += (out * out.grad).mean((2, 3)).abs()[0].detach()
    from raybench.groups.trace import trace

    groups = trace(net, images[:1])
    states = gather(MapTaylor(), net, groups, raybench.Calibration(images, labels, batch_size=4)).states
    torch.testing.assert_close(states["stem", "out"], expected, rtol=1e-4, atol=1e-7)


def test_a_network_is_pruned_by_either_without_scores_that_change_with_removals() -> None:
    torch.manual_seed(0)
    net, images = InPlace().eval(), torch.randn(16, 3, 8, 8)
    labels = torch.randint(0, 4, (16,))
    for criterion in (MapTaylor(), Noise()):
        pruned = raybench.prune(net, images[:1], 2, criterion=criterion, calibration=(images, labels))
        assert 1.8 < pruned.speedup < 2.4
        with pytest.raises(UserError, match=r"needs .* and .*gradients: give calibration="):
            raybench.prune(net, images[:1], 2, criterion=criterion)


def test_both_gradients_are_those_of_each_kind_alone() -> None:
    net, groups, calibration = sample()
    both = gather(Noise(), net, groups, calibration)
    for kind, field in (("gradients", "gradients"), ("sample-gradients", "gradient_squares")):
        alone = gather(type("One", (Noise,), {"needs": kind})(), net, groups, calibration)
        for name, value in getattr(alone, field).items():
            assert torch.equal(value, getattr(both, field)[name])
    assert all(np.isfinite(s).all() for s in Scorer(Noise(), net, groups, both).scores() if s is not None)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ('("activations", "gradient")', "found 'gradient', expected several of .* Did you mean 'gradients'"),
        ('("activations", "weights")', "found 'weights', expected several of"),
        ('("gradients", "gradients")', "each once"),
        ("()", "expected several of"),
        ('"gradient"', "Did you mean 'gradients'"),
    ],
)
def test_a_misspelt_kind_is_named_with_its_line(needs, message, tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'@importance("mine")\nclass Mine(Importance):\n    needs = {needs}\n')
    with pytest.raises(UserError, match=f"mine.py:2: Mine: needs: .*{message}"):
        list(read_entries("importance", file, None))


@pytest.mark.parametrize(
    "needs",
    [
        ("activations", "gradients"),
        ("gradients", "sample-gradients"),
        ("sample-gradients", "activations"),
        ("activations", "gradients", "sample-gradients"),
    ],
)
def test_each_start_with_several_needs_conforms_and_is_listed(needs, tmp_path, capsys, monkeypatch) -> None:
    name = f"own-{len(needs)}-{needs[0][0]}"
    assert main(["new-method", f"{name}", "--needs", *needs, "--folder", str(tmp_path)]) == 0
    file = tmp_path / f"{name.replace('-', '_')}.py"
    assert check_file(file) == [f"criterion {name}"]
    assert registry.importance.entry(name).facts["needs"] == needs
    capsys.readouterr()
    monkeypatch.delenv("COLUMNS", raising=False)  # in a pipe nothing is cut
    assert main(["methods", "--plugin", str(file)]) == 0
    assert " + ".join(needs) in capsys.readouterr().out


def test_weights_beside_others_are_refused_by_the_option(tmp_path, capsys) -> None:
    assert main(["new-method", "x", "--needs", "weights", "gradients", "--folder", str(tmp_path)]) == 2
    assert "--needs: found weights beside others" in capsys.readouterr().err
