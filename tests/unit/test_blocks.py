"""Blocks that may go whole: found in networks of every kind, removed exactly, and chosen by their influence."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from raybench import registry
from raybench.datasets.open import facts_of
from raybench.errors import UserError
from raybench.groups.blocks import removable_blocks, remove
from raybench.methods.protocols import Calibration
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.pipeline.outputs import class_loss
from raybench.selection.depth import block_influence, channel_axis, least_influential, staying
from tests.oracles.blocks import influence, silenced

IMAGE = torch.zeros(1, 3, 16, 16)
SEEDED = torch.Generator


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=SEEDED().manual_seed(3))


class Residual(nn.Module):
    """x + branch(x), with what comes after the sum."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.branch(x))


class Written(Residual):
    """A residual block whose forward is given as a function of (block, x)."""

    def __init__(self, how) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1))
        self.norm, self.scale, self.how = nn.BatchNorm2d(8), nn.Parameter(torch.full((8, 1, 1), 0.5)), how

    def forward(self, x: Tensor, *more) -> Tensor:
        return self.how(self, x)


def added_in_place(block, x):
    out = block.branch(x)
    out += x
    return F.relu_(out)


def to_its_input(block, x):
    y = block.branch(x)
    x += y
    return x


def two_halves(block, x):
    x = x + block.branch(x)
    return x + block.scale * block.branch(block.norm(x))


CARRIED = {  # what leaves the input where the branch is zero
    "sum": lambda block, x: x + block.branch(x),
    "branch first": lambda block, x: block.branch(x) + x,
    "in place, then a ReLU": added_in_place,
    "into its input": to_its_input,
    "difference": lambda block, x: x - block.branch(x),
    "scaled branch": lambda block, x: torch.add(x, block.branch(x), alpha=0.1),
    "addcmul": lambda block, x: torch.addcmul(x, block.scale, block.branch(x)),
    "two halves": two_halves,
    "flattened meanwhile": lambda block, x: (
        x.flatten(2).transpose(1, 2) + block.branch(x).flatten(2).transpose(1, 2)
    ).transpose(1, 2).reshape(x.shape),
    "dropout": lambda block, x: F.dropout(x, 0.5, block.training) + block.branch(x),
    "a gate of the branch": lambda block, x: x + block.branch(x) * torch.sigmoid(block.branch(x).mean((2, 3), True)),
}  # fmt: skip
NOT_CARRIED = {
    "no shortcut": lambda block, x: block.branch(x),
    "norm on the shortcut": lambda block, x: block.norm(x) + block.branch(x),
    "scaled shortcut": lambda block, x: block.scale * x + block.branch(x),
    "GELU after the sum": lambda block, x: F.gelu(x + block.branch(x)),
    "doubled": lambda block, x: x + x + block.branch(x),
    "the branch less the input": lambda block, x: block.branch(x) - x,
    "weights are added, no branch": lambda block, x: x + block.scale,
    "gated input": lambda block, x: x * torch.sigmoid(block.branch(x)),
    "mean of both": lambda block, x: (x + block.branch(x)) / 2,
    "shifted in space": lambda block, x: x.roll(1, 3) + block.branch(x),
    "concatenated": lambda block, x: torch.cat([x[:, :4], block.branch(x)[:, 4:]], 1),
}


def around(*blocks: nn.Module) -> nn.Module:
    """A network with `blocks` behind a ReLU, in eval mode."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("how", CARRIED.values(), ids=CARRIED)
def test_a_block_whose_branch_is_zero_returns_its_input(how) -> None:
    net = around(Written(how), Written(how))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert removable_blocks(net, IMAGE) == ("2", "3")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    quiet, images = silenced(net, ["2", "3"], ["branch"]), noise(2, 3, 16, 16)
    whole = net(images)
    remove(net, ["2", "3"])
    assert torch.equal(net(images), quiet(images))
    assert not torch.equal(net(images), whole)


@pytest.mark.parametrize("how", NOT_CARRIED.values(), ids=NOT_CARRIED)
def test_other_modules_are_no_blocks(how) -> None:
    assert removable_blocks(around(Written(how)), IMAGE) == ()


def test_a_relu_after_the_sum_needs_an_input_without_negative_numbers() -> None:
    def block() -> nn.Module:
        return Residual(nn.Conv2d(8, 8, 1), nn.ReLU())

    assert removable_blocks(around(block(), block()), IMAGE) == ("2", "3")
    assert removable_blocks(around(nn.BatchNorm2d(8), block(), block()), IMAGE) == ("4",)


def test_of_blocks_in_blocks_the_outer_one_goes_unless_the_inner_ones_are_most_of_it() -> None:
    def conv() -> nn.Module:
        return nn.Conv2d(8, 8, 3, padding=1)

    one = Residual(nn.Sequential(conv(), Residual(conv())))
    several = Residual(nn.Sequential(Residual(conv()), Residual(conv())))
    small = Residual(nn.Sequential(conv(), Residual(nn.Conv2d(8, 8, 1)), Residual(nn.Conv2d(8, 8, 1))))
    net = around(one, several, small, nn.Sequential(Residual(conv()), Residual(conv())))
    assert removable_blocks(net, IMAGE) == ("2", "3.branch.0", "3.branch.1", "4", "5.0", "5.1")


class Trunk(nn.Module):
    """Eight layers with their sums in one forward, which reads an attribute of its first layer."""

    def __init__(self, first: str = "") -> None:
        super().__init__()
        self.layers, self.first = nn.ModuleList(Residual(nn.Conv2d(8, 8, 1)) for _ in range(8)), first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return nn.Sequential(*self.layers)(x * getattr(self.layers[0], self.first).bias.numel() / 8)
        for layer in self.layers:
            x = x + layer.branch(x)
        return x


def test_a_trunk_is_no_block_and_layers_whose_insides_are_read_stay() -> None:
    assert removable_blocks(around(Trunk()), IMAGE) == ()
    assert removable_blocks(around(Trunk("branch")), IMAGE) == tuple(f"2.layers.{i}" for i in range(1, 8))


def test_what_a_user_keeps_stays() -> None:
    net = around(*(Residual(nn.Conv2d(8, 8, 1)) for _ in range(3)))
    assert removable_blocks(net, IMAGE, protect=["3.branch"]) == ("2", "4")
    assert removable_blocks(net, IMAGE, only=["2", "4.*"]) == ("2", "4")
    with pytest.raises(UserError, match="keep: Sequential has no module 'branch'"):
        removable_blocks(net, IMAGE, protect=["branch"])
    with pytest.raises(UserError, match=r"Sequential has no block '9' that could be removed"):
        remove(net, ["9"])


LIBRARY = {  # network -> (how it is made, pixels, how many blocks, the last layers of a block's branches)
    "ResNet, basic": (lambda: torchvision.models.resnet18(), 32, 5, ["bn2"]),
    "ResNet, bottleneck": (lambda: torchvision.models.resnet50(), 32, 12, ["bn3"]),
    "MobileNetV2": (lambda: torchvision.models.mobilenet_v2(), 32, 10, ["conv.3"]),
    "ConvNeXt": (lambda: timm.create_model("convnext_atto"), 64, 12, ["gamma"]),
    "RegNet": (lambda: torchvision.models.regnet_y_400mf(), 32, 12, ["f.c.1"]),
    "EfficientNet": (lambda: timm.create_model("efficientnet_b0"), 32, 9, ["bn3"]),
    "ViT": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32), 32, 12, ["attn.proj", "mlp.fc2"]),
    "Mixer": (
        lambda: timm.create_model("mixer_s32_224", img_size=64), 64, 8, ["mlp_tokens.fc2", "mlp_channels.fc2"],
    ),
    "Swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56), 56, 12, ["attn.proj", "mlp.fc2"],
    ),
    "EVA, called with more tensors": (
        lambda: timm.create_model("eva02_tiny_patch14_224", img_size=28), 28, 12, ["attn.proj", "mlp.fc2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "size", "count", "last"), LIBRARY.values(), ids=LIBRARY)
def test_blocks_of_libraries_compute_what_their_shortcuts_do(make, size, count, last) -> None:
    torch.manual_seed(0)
    net = make().eval()
    blocks = removable_blocks(net, torch.zeros(1, 3, size, size))
    assert len(blocks) == count
    some, images = blocks[::2], noise(2, 3, size, size)
    quiet = silenced(net, some, last)
    remove(net, some)
    with torch.no_grad():
        assert torch.equal(net(images), quiet(images))
    assert all(isinstance(net.get_submodule(name), nn.Identity) for name in some)


def test_a_detector_has_the_bottlenecks_of_its_backbone() -> None:
    data = facts_of(registry.dataset.entry("digits-detection"))
    net = baked(build_model("test-detector", data)).eval()
    blocks = removable_blocks(net, torch.zeros(1, *data.image_shape))
    assert blocks == ("model.2.m.0", "model.4.m.0", "model.4.m.1", "model.6.m.0", "model.6.m.1", "model.8.m.0")
    quiet, images = silenced(net, blocks, ["cv2.bn"]), noise(1, *data.image_shape)
    remove(net, blocks)
    with torch.no_grad():
        for left, right in zip(net(images), quiet(images), strict=True):
            assert torch.equal(left, right) if isinstance(left, Tensor) else left.keys() == right.keys()


@pytest.mark.parametrize("make", [torchvision.models.densenet121, torchvision.models.shufflenet_v2_x0_5])
def test_networks_without_shortcuts_that_add_have_none(make) -> None:
    assert removable_blocks(make().eval(), torch.zeros(1, 3, 32, 32)) == ()


def calibration(*shape: int) -> Calibration:
    return Calibration(noise(*shape), torch.zeros(shape[0], dtype=torch.int64), 2, class_loss, SEEDED())


@pytest.mark.parametrize("tokens", [False, True])
def test_influence_is_one_less_the_mean_cosine_at_every_position(tokens) -> None:
    torch.manual_seed(0)
    if tokens:
        net = timm.create_model("test_vit", img_size=32).eval()
        blocks, images = ("blocks.0", "blocks.1", "blocks.2"), calibration(5, 3, 32, 32)
    else:
        zero = Written(lambda block, x: (x + block.branch(x)) * (x[:1, :1].abs() < 0.3))
        net, blocks, images = around(Written(to_its_input), Written(added_in_place), zero), ("2", "3", "4"), None
        images = calibration(5, 3, 6, 6)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for name in blocks:
        module = net.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda m, a, n=name: seen.update({n: (a[0].clone(),)})))
        hooks.append(module.register_forward_hook(lambda m, a, o, n=name: seen.update({n: (*seen[n], o.clone())})))
    wanted = dict.fromkeys(blocks, 0.0)
    with torch.no_grad():
        for start in range(0, 5, 2):
            batch = images.images[start : start + 2]
            net(batch)
            for name in blocks:
                wanted[name] += influence(*seen[name], channels_first=not tokens) * len(batch) / 5
    for hook in hooks:
        hook.remove()
    assert block_influence(net, blocks, images) == pytest.approx(list(wanted.values()), abs=1e-5)
    assert min(wanted.values()) > 1e-3


def test_the_axis_of_the_channels_is_that_of_a_convolution_or_the_last() -> None:
    conv, linear = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)
    assert channel_axis(nn.Sequential(conv, linear), noise(1, 8, 8, 8)) == 1
    assert channel_axis(nn.Sequential(conv), noise(1, 4, 4, 8)) == -1
    assert channel_axis(linear, noise(1, 8, 8, 8)) == -1
    assert channel_axis(nn.Conv1d(6, 6, 1), noise(2, 6, 5)) == 1
    assert channel_axis(linear, noise(2, 8)) == -1


@pytest.mark.parametrize(
    ("depth", "blocks", "stay"), [(0.5, 7, 4), (0.5, 8, 4), (0.9, 3, 3), (0.8, 3, 2), (0.1, 3, 0), (1.0, 5, 5)]
)
def test_how_many_blocks_stay_is_rounded(depth, blocks, stay) -> None:
    assert staying(depth, blocks) == stay


def test_the_blocks_of_least_influence_go_and_of_equal_ones_the_first() -> None:
    assert least_influential([0.3, 0.1, 0.2, 0.1], 2) == [1, 3]
    assert least_influential([0.2, 0.1, 0.1, 0.3], 1) == [1]
    assert least_influential([0.2, 0.1], 0) == []


def test_a_removed_block_takes_whatever_it_was_called_with_and_keeps_plain_marks() -> None:
    block = Written(to_its_input)
    block.index, block.reads = 4, [-1, 6]
    net = around(block)
    remove(net, ["2"])
    gone, x = net[2], noise(1, 8, 2, 2)
    assert gone(x, 3, mask=None) is x
    assert (gone.index, gone.reads, gone.training) == (4, [-1, 6], False)
    assert not list(gone.parameters())
    assert isinstance(copy.deepcopy(net)[2], nn.Identity)
