"""Figures that torch-pruning 1.6.1 itself prints for networks that everybody has."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from raybench import registry
from raybench.groups.trace import trace
from raybench.scoring.scorer import Scoring
from raybench.selection.records import Cut
from raybench.selection.select import select_ratio

IMAGE = torch.zeros(1, 3, 224, 224)


def cut(model: nn.Module, ratio: float, **how) -> Cut:
    """One step of local magnitude-l2, as torch-pruning's examples prune."""
    criterion = registry.importance.load("magnitude-l2")()
    return select_ratio(Scoring(criterion, model), IMAGE, trace(model, IMAGE, **how), ratio, strategy="local")


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return torchvision.models.resnet50().eval()


@pytest.mark.parametrize(
    ("ratio", "macs", "params"), [(0.25, "2.3472", 14_771_992), (0.5, "1.0687", 6_917_640), (0.75, "0.2863", 1_993_976)]
)
def test_resnet50_with_its_classifier_kept(resnet50, ratio, macs, params):
    """torchvision's ResNet-50, 4.1219 G MACs and 25,557,032 parameters as torch-pruning counts them."""
    found = cut(resnet50, ratio, protect=("fc",))
    assert (f"{found.macs_tp_base / 1e9:.4f}", found.params_base) == ("4.1219", 25_557_032)
    assert (f"{found.macs_tp / 1e9:.4f}", found.params) == (macs, params)


def test_vit_b16_with_every_dimension_halved():
    """ViT-B/16: 86.57 M -> 22.05 M parameters, 17.59 G -> 4.61 G MACs."""
    model = timm.create_model("vit_base_patch16_224").eval()
    found = cut(model, 0.5, prune=("embed", "head-dim", "mlp"))
    assert f"{found.params_base / 1e6:.2f} {found.params / 1e6:.2f}" == "86.57 22.05"
    assert f"{found.macs_tp_base / 1e9:.2f} {found.macs_tp / 1e9:.2f}" == "17.59 4.61"
