"""Groupings worked out by hand, grouped layers, attention, what is refused by name, and what tracing leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported, UserError
from raybench.groups import surgery
from raybench.groups.cost import Cost, count_macs
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from tests.oracles.grouping import check_groups, worst
from tests.pruning_nets import (
    IMAGE,
    Branches,
    Chain,
    FewInEach,
    Grouped,
    Tied,
    TorchAttention,
    normed_vit,
    small_resnet,
    small_swin,
    small_vit,
)


def described(groups: Groups) -> dict[str, set[tuple[str, str]]]:
    return {g.name: {(m.layer, m.side) for m in g.members} for g in groups}


def test_concatenation_and_addition_couple_what_they_join() -> None:
    groups = trace(Branches().eval(), IMAGE[:1], classes=10)
    joined = {("norm", "out"), ("mix", "in"), ("mix", "out"), ("head", "in")}
    assert described(groups) == {
        "stem": {("stem", "out"), ("left", "in"), ("right", "in")},
        "left": {("left", "out"), *joined},
        "right": {("right", "out"), *joined},
    }
    assert groups.protected == ("head",)
    right = groups.groups[2]
    flattened = next(m for m in right.members if m.layer == "head")
    assert right.size == 5
    assert flattened.width == 32
    assert flattened.positions.tolist() == list(range(12, 32))  # channels 3 to 7 of 8, four pixels each
    assert flattened.units.tolist() == np.repeat(np.arange(5), 4).tolist()


def test_units_of_grouped_layers_hold_one_channel_of_each_group() -> None:
    groups = trace(Grouped().eval(), IMAGE[:1])
    first, second, up = groups
    assert (first.name, first.size, first.least) == ("first", 4, 2)
    assert (second.name, second.size, second.least) == ("grouped", 6, 2)
    assert (up.name, up.size, up.least) == ("up", 6, 1)
    inner = next(m for m in first.members if m.layer == "grouped")
    assert inner.positions[inner.units == 1].tolist() == [1, 5]
    assert {m.kind for m in second.members} == {"conv", "depthwise", "norm"}


def test_attention_is_split_into_parts_that_can_be_switched() -> None:
    model = small_vit()
    by_default = trace(model, IMAGE[:1])
    assert [(g.name, g.size, g.part) for g in by_default][:3] == [
        ("patch_embed.proj", 32, "embed"),
        ("blocks.0.attn.qkv:head-dim", 8, "head-dim"),
        ("blocks.0.mlp.fc1", 64, "mlp"),
    ]
    heads = trace(model, IMAGE[:1], prune=("heads",))
    assert [(g.name, g.size) for g in heads] == [("blocks.0.attn.qkv:heads", 4), ("blocks.1.attn.qkv:heads", 4)]
    queries = heads.groups[0].members[0]
    assert queries.positions[queries.units == 1].tolist() == [*range(8, 16), *range(40, 48), *range(72, 80)]
    assert {m.layer for m in by_default.groups[0].members} >= {"cls_token", "pos_embed", "blocks.0.ls1.gamma", "norm"}
    with pytest.raises(UserError, match="Did you mean 'heads'"):
        trace(model, IMAGE[:1], prune=("head",))


@pytest.mark.parametrize(
    ("model", "prune"),
    [
        (Branches(), ()),
        (Grouped(), ()),
        (small_resnet(), ()),
        (small_vit(), ("embed", "heads", "head-dim", "mlp")),
        (small_swin(), ("embed", "heads", "head-dim", "mlp")),
    ],
    ids=["branches", "grouped", "resnet", "vit", "swin"],
)
def test_removing_a_unit_equals_silencing_it(model: nn.Module, prune: tuple[str, ...]) -> None:
    groups = trace(model.eval(), IMAGE[:1], prune=prune)
    differences = check_groups(model, IMAGE, groups, unit=1)
    assert any(d is not None for d in differences.values())
    assert worst(differences) < 1e-5


def test_the_check_finds_a_wrong_grouping() -> None:
    model = Branches().eval()
    groups = trace(model, IMAGE[:1])
    left = groups.groups[1]
    moved = [m for m in left.members if m.layer != "mix" or m.side != "in"]
    mix = next(m for m in left.members if m.layer == "mix" and m.side == "in")
    wrong = type(left)(left.name, left.size, (*moved, type(mix)("mix", "conv", "in", 8, mix.positions + 3, mix.units)))
    assert worst(check_groups(model, IMAGE, Groups((wrong,)))) > 1e-3


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = small_vit().train()
    model.blocks[0].eval()
    model.patch_embed.proj.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    fused = model.blocks[0].attn.fused_attn
    frozen = trace(model, IMAGE[:1])
    assert flags == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert model.blocks[0].attn.fused_attn == fused
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert described(frozen) == described(trace(small_vit(), IMAGE[:1]))  # the frozen first layer is grouped as ever


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x).flip(1)


def raising(x: torch.Tensor) -> torch.Tensor:
    raise ValueError("the net's own")


def test_what_cannot_be_grouped_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"ResNet.*took too long"):
        trace(small_resnet(), IMAGE[:1], max_seconds=0)
    with pytest.raises(NotSupported, match=r"OneLayer has no group of channels that can be pruned"):
        trace(OneLayer().eval(), IMAGE[:1])
    with pytest.raises(UserError, match=r"Chain doesn't run on images of 16x16: the net's own \(.*test_group.py:\d+\)"):
        trace(Chain(raising).eval(), IMAGE[:1])
    with pytest.raises(UserError, match=r"head.*10 outputs.*7 classes"):
        trace(Branches(), IMAGE[:1], classes=7)
    with pytest.raises(UserError, match=r"no module 'mixx'.*'mix'"):
        trace(Branches(), IMAGE[:1], protect=["mixx"])


def test_protected_modules_keep_their_outputs() -> None:
    groups = trace(Branches().eval(), IMAGE[:1], protect=["mix"])
    assert [g.name for g in groups] == ["stem"]
    assert {"left", "right", "mix", "head"} <= set(groups.protected)


def test_modules_that_cannot_be_cut_keep_their_width_and_are_told_by_name() -> None:
    with pytest.warns(UserWarning, match=r"attn keeps its width, and with it .*stem.*: a MultiheadAttention can't be"):
        groups = trace(TorchAttention().eval(), IMAGE[:1])
    assert [g.name for g in groups] == ["fc1"]
    assert set(groups.protected) == {"stem", "attn", "fc2", "head"}
    with pytest.warns(UserWarning, match=r"blocks\.1\.attn\.qkv keeps its width: its queries and keys are normalised"):
        groups = trace(normed_vit(), IMAGE[:1])
    assert [g.name for g in groups] == ["patch_embed.proj", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]


def test_grouped_convolutions_keep_two_channels_a_group() -> None:
    """torch-pruning takes a convolution with one channel a group for a depthwise one and fails."""
    with pytest.warns(UserWarning, match="grouped") as warned:
        groups = trace(FewInEach(3).eval(), IMAGE[:1])
    assert str(warned[0].message).startswith(
        "FewInEach: grouped keeps its width, and with it first: grouped has 2 channels in each of its groups, "
        "and two must stay"
    )
    assert [(g.name, g.size, g.least) for g in groups] == [("grouped", 4, 2), ("last", 8, 1)]
    assert {"first"} <= set(groups.protected)
    assert all(g.least == 2 for g in trace(Grouped().eval(), IMAGE[:1]) if g.name in ("first", "grouped"))


def test_channels_of_which_several_are_made_go_with_them() -> None:
    model = FewInEach(6).eval()
    groups = trace(model, IMAGE[:1])
    assert [(g.name, g.size, g.least) for g in groups] == [("first", 6, 1), ("last", 8, 1)]
    assert worst(check_groups(model, IMAGE, groups, unit=1)) < 1e-5


def test_layers_that_share_a_weight_stay_whole_and_are_told_once() -> None:
    model = Tied().eval()
    with pytest.warns(UserWarning, match="left, right") as warned:
        groups = trace(model, IMAGE[:1])
    assert [str(one.message) for one in warned] == [
        "Tied: left, right keeps its width, and with it first: they share left.weight; "
        "up to 11 % of its MACs can still be removed"
    ]
    assert [(g.name, g.size) for g in groups] == [("wide", 20)]  # with what runs twice
    assert {"first", "left", "right"} <= set(groups.protected)
    kept = np.array([11])
    cost = Cost.measure(model, IMAGE[:1], groups)
    surgery.apply(model, groups, {"wide": range(11)})
    assert cost.params(kept) == sum(p.numel() for p in model.parameters())
    assert cost.macs(kept) == count_macs(model, IMAGE[:1])
    assert worst(check_groups(Tied().eval(), IMAGE, groups)) < 1e-5
