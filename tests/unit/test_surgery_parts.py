"""The physical cut layer by layer, renumbered groups, and copies of a network for counting, by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from raybench.errors import NotSupported, UserError
from raybench.groups import surgery
from raybench.groups.attention import eval_mode, normalises_heads, plainly, refit
from raybench.groups.layer_types import is_frozen, is_layer, is_norm
from raybench.groups.records import Group, Groups, Member
from raybench.groups.restored import buffers_restored, gradients, modes_restored
from raybench.groups.shell import Shell, copy_of_shapes, sharing_copy

KEEP = [0, 3]  # of four positions


def member(layer: str, kind: str, side: str, width: int = 4, **more: Any) -> Member:
    return Member(layer, kind, side, width, np.arange(width), np.arange(width), **more)


def one_group(*members: Member, size: int = 4, least: int = 1) -> Groups:
    return Groups((Group("g", size, members, "channels", least),))


def ones_of(norm: nn.Module) -> nn.Module:
    """Different numbers at every position of the norm."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.dim():
            tensor.data = torch.arange(float(tensor.numel())).view(tensor.shape)
    return norm


# layer, its member, where its weight is cut, whether its bias is, attributes afterwards
CUTS: dict[str, tuple[Callable[[], nn.Module], Member, int, bool, dict[str, Any]]] = {
    "conv out": (
        lambda: nn.Conv2d(3, 4, 3), member("0", "conv", "out"), 0, True,
        {"out_channels": 2, "in_channels": 3, "groups": 1},
    ),
    "conv in": (
        lambda: nn.Conv2d(4, 3, 3), member("0", "conv", "in"), 1, False,
        {"out_channels": 3, "in_channels": 2, "groups": 1},
    ),
    "conv without bias": (
        lambda: nn.Conv2d(3, 4, 3, bias=False), member("0", "conv", "out"), 0, True, {"out_channels": 2, "bias": None},
    ),
    "transposed out": (
        lambda: nn.ConvTranspose2d(3, 4, 3), member("0", "conv", "out"), 1, True, {"out_channels": 2, "in_channels": 3},
    ),
    "transposed in": (
        lambda: nn.ConvTranspose2d(4, 3, 3), member("0", "conv", "in"), 0, False, {"out_channels": 3, "in_channels": 2},
    ),
    "depthwise": (
        lambda: nn.Conv2d(4, 4, 3, groups=4), member("0", "depthwise", "out"), 0, True,
        {"out_channels": 2, "in_channels": 2, "groups": 2},
    ),
    "depthwise of two": (
        lambda: nn.Conv2d(2, 4, 3, groups=2),
        Member("0", "depthwise", "out", 4, np.arange(4), np.array([0, 1, 1, 0])), 0, True,
        {"out_channels": 2, "in_channels": 1, "groups": 1},
    ),
    "linear out": (
        lambda: nn.Linear(3, 4), member("0", "linear", "out"), 0, True, {"out_features": 2, "in_features": 3},
    ),
    "linear in": (
        lambda: nn.Linear(4, 3), member("0", "linear", "in"), 1, False, {"out_features": 3, "in_features": 2},
    ),
    "batch norm": (lambda: ones_of(nn.BatchNorm2d(4)), member("0", "norm", "out"), 0, True, {"num_features": 2}),
    "layer norm": (lambda: nn.LayerNorm(4), member("0", "norm", "out"), 0, True, {"normalized_shape": (2,)}),
    "layer norm without bias": (
        lambda: nn.LayerNorm(4, bias=False), member("0", "norm", "out"), 0, True, {"normalized_shape": (2,)},
    ),
    "group norm": (
        lambda: nn.GroupNorm(2, 4), member("0", "norm", "out", folds=2), 0, True, {"num_channels": 2, "num_groups": 2},
    ),
    "frozen": (lambda: ones_of(FrozenBatchNorm2d(4)), member("0", "norm", "out"), 0, True, {}),
    "parameter": (
        lambda: nn.Linear(4, 4), member("0.weight", "parameter", "out", axis=0), 0, False, {"out_features": 4},
    ),
    "last axis of that width": (lambda: nn.Linear(4, 4), member("0.weight", "parameter", "out"), 1, False, {}),
    "only axis of that width": (lambda: nn.Linear(3, 4), member("0.weight", "parameter", "out"), 0, False, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_layer_holds_what_is_left(name: str) -> None:
    make, one, axis, bias, attributes = CUTS[name]
    model = nn.Sequential(make())
    whole = copy.deepcopy(model[0])
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
        parameter.grad = torch.zeros_like(parameter)
    units = [0] if name == "depthwise of two" else KEEP
    surgery.apply(model, one_group(one, size=2 if name == "depthwise of two" else 4), {"g": units})
    cut, keep = model[0], torch.tensor(KEEP)
    assert torch.equal(cut.weight, whole.weight.index_select(axis, keep))
    if whole.bias is not None:
        assert torch.equal(cut.bias, whole.bias[keep] if bias else whole.bias)
    for statistic in ("running_mean", "running_var"):
        if getattr(whole, statistic, None) is not None:
            assert torch.equal(getattr(cut, statistic), getattr(whole, statistic)[keep])
    assert {key: getattr(cut, key) for key in attributes} == attributes
    assert all(not p.requires_grad for p in cut.parameters())
    assert isinstance(cut.weight, nn.Parameter) == isinstance(whole.weight, nn.Parameter)
    assert set(cut.state_dict()) == set(whole.state_dict())


def test_a_grouped_convolution_reads_the_same_of_every_group() -> None:
    model = nn.Sequential(nn.Conv2d(8, 6, 1, groups=2))
    whole = copy.deepcopy(model[0])
    one = Member("0", "conv", "in", 8, np.arange(8), np.arange(8) % 4, 2)
    surgery.apply(model, one_group(one), {"g": [1, 3]})
    assert torch.equal(model[0].weight, whole.weight[:, [1, 3]])
    assert (model[0].in_channels, model[0].out_channels, model[0].groups) == (4, 6, 2)


def test_norms_without_weights_or_statistics_are_told_their_width() -> None:
    for norm in (nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4)):
        model = nn.Sequential(norm)
        surgery.apply(model, one_group(member("0", "norm", "out")), {"g": KEEP})
        assert norm.num_features == 2
        model(torch.rand(2, 2, 4, 4))


def test_a_position_stays_where_its_unit_stays_in_every_group() -> None:
    first = Group("a", 2, (Member("0", "linear", "out", 6, np.arange(6), np.arange(6) % 2),))
    second = Group("b", 3, (Member("0", "linear", "out", 6, np.arange(6), np.arange(6) // 2),), "heads", 2)
    third = Group("c", 5, (member("1", "linear", "out", 5),))
    model, groups = nn.Sequential(nn.Linear(3, 6), nn.Linear(3, 5)), Groups((first, second, third), ("x",))
    whole = copy.deepcopy(model)
    kept = {"a": [1], "b": np.array([2, 0])}
    narrow = surgery.narrowed(groups, kept)
    surgery.apply(model, groups, kept)
    assert torch.equal(model[0].weight, whole[0].weight[[1, 5]])
    assert model[1].weight is not whole[1].weight
    assert torch.equal(model[1].weight, whole[1].weight)
    assert narrow.protected == ("x",)
    assert [(g.name, g.size, g.part, g.least) for g in narrow] == [
        ("a", 1, "channels", 1), ("b", 2, "heads", 2), ("c", 5, "channels", 1),
    ]  # fmt: skip
    found = [narrow.groups[k].members[0] for k in range(3)]
    assert [(m.width, m.positions.tolist(), m.units.tolist()) for m in found] == [
        (2, [0, 1], [0, 0]), (2, [0, 1], [0, 1]), (5, [*range(5)], [*range(5)]),
    ]  # fmt: skip


def test_narrowed_members_keep_what_else_they_say() -> None:
    one = Member("p", "parameter", "in", 8, np.array([0, 2, 4, 6]), np.array([0, 1, 0, 1]), 2, 1)
    found = surgery.narrowed(one_group(one, size=2), {"g": [1]}).groups[0].members[0]
    assert (found.layer, found.kind, found.side, found.folds, found.axis) == ("p", "parameter", "in", 2, 1)
    assert (found.width, found.positions.tolist(), found.units.tolist()) == (6, [1, 4], [0, 0])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"h": [0]}, r"unknown group 'h'"),
        ({"g": []}, r"group g has units 0 to 3 and keeps at least one; found \[\]"),
        ({"g": [0, 4]}, r"group g has units 0 to 3 and keeps at least one; found \[0, 4\]"),
        ({"g": [-1]}, r"group g has units 0 to 3 and keeps at least one; found \[-1\]"),
    ],
)
def test_units_that_a_group_does_not_have(kept, message: str) -> None:
    with pytest.raises(UserError, match=message):
        surgery.alive_of(one_group(member("0", "linear", "out")), kept)
    groups = one_group(member("0", "linear", "out"))
    assert [a.tolist() for a in surgery.alive_of(groups, {"g": [3]})] == [[False, False, False, True]]
    assert [a.tolist() for a in surgery.alive_of(groups, {})] == [[True] * 4]


class Heads(nn.Module):
    def __init__(self, bias: bool = True, **more: object) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.scale = nn.Linear(5, 24, bias=bias), nn.Linear(8, 5), 2, 0.5
        for name, value in more.items():
            setattr(self, name, value)


@pytest.mark.parametrize("bias", [True, False])
def test_refitted_attention_scales_as_before(bias: bool) -> None:
    """A scale of 1/2 is that of a head of four: with one of three left, queries grow by the root of 3/4."""
    attention = Heads(bias, head_dim=4, attn_dim=8)
    weight = attention.qkv.weight.detach().clone()
    refit(attention, 2, 3)
    torch.testing.assert_close(attention.qkv.weight[:6], weight[:6] * 0.75**0.5)
    assert torch.equal(attention.qkv.weight[6:], weight[6:])
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 3, 6)
    assert attention.scale == 3**-0.5
    plain = Heads(bias)
    if bias:
        nn.init.ones_(plain.qkv.bias)
    refit(plain, 1, 2)
    assert not hasattr(plain, "head_dim")
    assert not hasattr(plain, "attn_dim")
    if bias:
        torch.testing.assert_close(plain.qkv.bias, torch.cat([torch.full((2,), 0.5**0.5), torch.ones(22)]))


def test_heads_that_lose_no_width_are_not_refitted() -> None:
    model = nn.Sequential(Heads())
    weight = model[0].qkv.weight.detach().clone()
    outs = Member("0.qkv", "linear", "out", 24, np.arange(24), np.arange(24) % 8 // 4)
    into = Member("0.proj", "linear", "in", 8, np.arange(8), np.arange(8) // 4)
    groups = Groups((Group("0.qkv:heads", 2, (outs, into), "heads"),))
    surgery.apply(model, groups, {})
    assert (model[0].num_heads, model[0].scale) == (2, 0.5)
    assert torch.equal(model[0].qkv.weight, weight)
    surgery.apply(model, groups, {"0.qkv:heads": [1]})
    assert (model[0].num_heads, model[0].scale, model[0].proj.in_features) == (1, 0.5, 4)
    assert torch.equal(model[0].qkv.weight, weight[[*range(4, 8), *range(12, 16), *range(20, 24)]])


def test_norms_of_queries_or_keys_with_weights() -> None:
    assert not normalises_heads(Heads())
    assert not normalises_heads(Heads(q_norm=nn.Identity(), k_norm=nn.LayerNorm(4, elementwise_affine=False)))
    assert normalises_heads(Heads(q_norm=nn.LayerNorm(4), k_norm=nn.Identity()))
    assert normalises_heads(Heads(q_norm=None, k_norm=nn.LayerNorm(4)))
    assert not normalises_heads(Heads(q_norm=3))


class Switched(nn.Module):
    def __init__(self, fused: object) -> None:
        super().__init__()
        self.fused_attn, self.seen = fused, []

    def forward(self, x: Tensor) -> Tensor:
        fast = torch.backends.mha.get_fastpath_enabled()
        self.seen.append((self.fused_attn, self.training, fast))
        return x

    def train(self, mode: bool = True) -> nn.Module:
        raise AssertionError("called")


def test_a_plain_run_sets_switches_and_flags_and_restores_them() -> None:
    one, off, other = Switched(True), Switched(False), Switched("always")
    model = nn.Sequential(one, off, other)
    off.training = False
    with plainly(model):
        model(torch.zeros(1))
    assert (one.seen, off.seen, other.seen) == (
        [(False, False, False)],
        [(False, False, False)],
        [("always", False, False)],
    )
    assert (one.fused_attn, off.fused_attn, other.fused_attn) == (True, False, "always")
    assert (one.training, off.training, model.training) == (True, False, True)
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with pytest.raises(KeyError), eval_mode(model):
            raise KeyError
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert (one.training, off.training) == (True, False)


def test_buffers_flags_and_gradients_come_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.requires_grad_(False)
    model[2].eval()
    required = [p.requires_grad for p in model.parameters()]
    for wanted in (True, False):
        with gradients(model, wanted):
            assert {p.requires_grad for p in model.parameters()} == {wanted}
        assert [p.requires_grad for p in model.parameters()] == required
    with modes_restored(model):
        model.eval()
    assert [m.training for m in model.modules()] == [True, True, True, False]
    model[0].register_buffer("grown", torch.zeros(2))
    mean = model[0].running_mean
    with buffers_restored(model):
        model(torch.rand(4, 3))
        model[0].grown = torch.ones(3)
        model[0].register_buffer("new", torch.ones(1))
    assert model[0].running_mean is mean
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(model[0].grown, torch.ones(3))


def test_copies_of_shapes_and_copies_that_share() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)
    slim, shared = copy_of_shapes(model), sharing_copy(model)
    for one, of_shapes, same in zip(
        *((*net.parameters(), *net.buffers()) for net in (model, slim, shared)), strict=True
    ):
        assert of_shapes.is_meta
        assert same is one
        assert (of_shapes.shape, of_shapes.requires_grad, type(of_shapes)) == (one.shape, one.requires_grad, type(one))
    assert shared[0] is not model[0]
    surgery.apply(shared, one_group(member("0", "linear", "out")), {"g": KEEP})
    assert model[0].out_features == 4


def _params(model: nn.Module, image: Tensor) -> int:
    model(image)
    return sum(p.numel() for p in model.parameters())


def test_a_shell_counts_cuts_and_is_whole_again() -> None:
    prepared: list[tuple[bool, tuple[int, ...]]] = []
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = one_group(member("0", "linear", "out"), member("2", "linear", "in"))
    shell = Shell.of(
        model,
        torch.rand(5, 3),
        groups,
        _params,
        lambda net, image: prepared.append((image.is_meta, tuple(image.shape))),
    )
    assert (shell.base, shell.cut([np.array([1])]), shell.cut([np.arange(4)])) == (26, 3 + 1 + 2 + 2, 26)
    assert prepared == [(True, (1, 3))]
    assert (shell._model[0].out_features, tuple(shell._model[0].weight.shape)) == (4, (4, 3))
    assert all(p.is_meta for p in shell._model.parameters())

    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.detach().sum() > -1e9) + (0 if x.shape[-1] != 2 else x.view(7))

    prepared.clear()
    valued = Shell.of(
        nn.Sequential(model[0], Reads(), model[2]), torch.rand(5, 3), groups, _params,
        lambda net, image: prepared.append((image.is_meta, tuple(image.shape))),
    )  # fmt: skip
    assert prepared == [(True, (1, 3)), (False, (1, 3))]
    assert valued.cut([np.array([1])]) == 8
    assert valued._model[0].weight is not model[0].weight
    with pytest.raises(NotSupported, match=r"^Sequential can't run with fewer channels, in or after 1: .*7"):
        valued.cut([np.array([1, 2])])
    own = Shell.of(model, torch.rand(5, 3), groups, lambda net, image: 1 // len(net[0].weight[1:2]) if net else 0)
    own._entered = ""
    own._count = _raising
    with pytest.raises(
        NotSupported, match=r"^Sequential can't run with fewer channels, in its own forward: what; a for"
    ):
        own.cut([np.array([1])])


def _raising(model: nn.Module, image: Tensor) -> int:
    raise RuntimeError("what")


class RootMean(nn.Module):
    def __init__(self, *shape: int, kind: type = tuple) -> None:
        super().__init__()
        self.normalized_shape = kind(shape)


def test_what_surgery_knows_as_a_layer() -> None:
    assert all(
        is_norm(norm) for norm in (RootMean(4), RootMean(4, kind=list), nn.GroupNorm(2, 4), nn.InstanceNorm1d(3))
    )
    assert not any(is_norm(other) for other in (RootMean(4, 4), RootMean(), nn.ReLU(), nn.Linear(2, 2)))
    assert is_frozen(FrozenBatchNorm2d(4))
    assert is_norm(FrozenBatchNorm2d(4))
    assert not is_frozen(nn.BatchNorm2d(4))
    assert not is_frozen(nn.BatchNorm2d(4, affine=False))
    assert is_layer(nn.Conv3d(2, 2, 1))
    assert is_layer(nn.Linear(2, 2))
    assert is_layer(RootMean(3))
    assert not is_layer(nn.PReLU())
