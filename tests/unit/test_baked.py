"""Weights that are computed on every call become ordinary ones before a cut, with a warning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import utils

import raybench
from raybench.models.baked import baked_copy, computes_weights
from tests.pruning_nets import IMAGE, Chain

NORMED = {
    "weight-norm": utils.parametrizations.weight_norm,
    "old-weight-norm": utils.weight_norm,
    "spectral-norm": utils.parametrizations.spectral_norm,
    "old-spectral-norm": utils.spectral_norm,
    "orthogonal": utils.parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("how", NORMED)
def test_computed_weights_are_baked_in_and_pruned(how: str) -> None:
    torch.manual_seed(0)
    model = Chain(torch.relu).eval()
    for layer in (model.second, model.third):
        NORMED[how](layer)
    model(IMAGE)
    before, names = model(IMAGE), set(model.state_dict())
    with pytest.warns(UserWarning, match=r"Chain: 2 weights that are computed on every call .* are now ordinary"):
        plain = baked_copy(model)
    assert not computes_weights(plain)
    assert torch.allclose(plain(IMAGE), before, atol=1e-6)
    with pytest.warns(UserWarning, match="Chain: 2 weights"):
        pruned = raybench.prune(model, IMAGE[:1], 1.5)
    assert pruned.model.second.out_channels < 16
    assert isinstance(pruned.model.second.weight, nn.Parameter)
    assert set(model.state_dict()) == names  # the network that was given stays as it was
