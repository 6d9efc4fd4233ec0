"""The layout of one side of one layer: every kind, both sides, and positions of the other side already gone."""

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported
from raybench.groups.records import Member
from raybench.methods.layers import arrangement, view


def member(kind, side, width, layer="layer"):
    return Member(layer, kind, side, width, np.arange(width), np.arange(width))


def holding(module):
    return nn.ModuleDict({"layer": module})


CASES = {
    "conv": (nn.Conv2d(4, 6, 3), 4, 6),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), 4, 6),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), 4, 6),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), 4, 6),
    "conv1d": (nn.Conv1d(4, 6, 3), 4, 6),
}


def dense(module):
    """(out, in, ...) weights of any convolution, zero where a group boundary lies between."""
    w = module.weight.detach()
    kernel, g = w.shape[2:], module.groups
    full = torch.zeros(module.out_channels, module.in_channels, *kernel)
    po, pi = module.out_channels // g, module.in_channels // g
    for o in range(module.out_channels):
        for i in range(module.in_channels):
            if o // po == i // pi:
                full[o, i] = w[i, o % po] if module.transposed else w[o, i % pi]
    return full


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", ["out", "in"])
def test_rows_hold_each_channels_weights(name, side):
    module, c_in, c_out = CASES[name]
    full = dense(module) if side == "out" else dense(module).transpose(0, 1)
    seen = view(holding(module), member("conv", side, c_out if side == "out" else c_in)).weight
    assert seen.shape[0] == full.shape[0]
    assert seen.numel() == module.weight.numel()
    torch.testing.assert_close(seen.flatten(1).square().sum(1), full.flatten(1).square().sum(1))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", ["out", "in"])
def test_other_keeps_only_what_is_left(name, side):
    module, c_in, c_out = CASES[name]
    width, gone = (c_out, c_in) if side == "out" else (c_in, c_out)
    kept = np.array([0, gone // 2 + 1])  # one in each half, at different places: valid for two groups too
    full = dense(module) if side == "out" else dense(module).transpose(0, 1)
    seen = view(holding(module), member("conv", side, width), other=kept).weight
    expected = full[:, kept].flatten(1).square().sum(1)
    torch.testing.assert_close(seen.flatten(1).square().sum(1), expected)
    assert seen.numel() < module.weight.numel()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", ["out", "in"])
def test_spread_multiplies_channel_by_channel(name, side):
    module, c_in, c_out = CASES[name]
    m = member("conv", side, c_out if side == "out" else c_in)
    layout = arrangement(holding(module), m)
    values = torch.rand(m.width)
    weight = module.weight.detach()
    scaled = layout.rows(weight * layout.spread(values, weight))
    rows = layout.rows(weight)
    torch.testing.assert_close(scaled, rows * values.view(-1, *[1] * (rows.dim() - 1)))


def test_groups_that_keep_different_numbers_are_refused_by_name():
    module = nn.Conv2d(4, 6, 3, groups=2)
    with pytest.raises(NotSupported, match=r"layer.*equally many"):
        view(holding(module), member("conv", "out", 6), other=np.array([0, 1]))


def test_norms_depthwise_linear_parameters_and_embeddings():
    dw = nn.Conv2d(5, 5, 3, groups=5)
    assert view(holding(dw), member("depthwise", "out", 5)).weight.shape == (5, 1, 3, 3)
    norm = view(holding(nn.LayerNorm(5)), member("norm", "out", 5))
    assert norm.weight.shape == (5, 1)
    assert norm.bias.shape == (5,)
    assert view(holding(nn.BatchNorm2d(5, affine=False)), member("norm", "out", 5)).weight.shape == (5, 0)
    linear = nn.Linear(3, 5)
    assert torch.equal(view(holding(linear), member("linear", "in", 3)).weight, linear.weight.t())
    assert view(holding(linear), member("linear", "in", 3)).bias is None
    embedding = nn.Embedding(7, 5)
    assert view(holding(embedding), member("embedding", "out", 5)).weight.shape == (5, 7)
    model = nn.Module()
    model.pos = nn.Parameter(torch.randn(1, 5, 3))
    assert torch.equal(view(model, member("parameter", "out", 3, "pos")).weight, model.pos[0].t().unsqueeze(1))


def test_units_say_which_positions_are_ours():
    m = Member("layer", "linear", "in", 6, np.array([2, 3, 5]), np.array([0, 0, 1]))
    assert view(holding(nn.Linear(6, 2)), m).unit.tolist() == [-1, -1, 0, 0, -1, 1]


def test_a_layer_without_known_layout_is_named():
    with pytest.raises(NotSupported, match=r"layer: no known layout of the weight of Bilinear"):
        view(holding(nn.Bilinear(2, 2, 3)), member("linear", "out", 3))
