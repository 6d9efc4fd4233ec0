"""MACs of attention that a network computes itself: `scaled_dot_product_attention`, torch's encoders, torchvision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import raybench
from raybench.groups import surgery
from raybench.groups.cost import Cost, count_macs
from raybench.groups.library_count import library_counts
from raybench.groups.trace import trace
from tests.pruning_nets import OwnAttention, small_vit

IMAGE = torch.zeros(1, 3, 16, 16)
STEM, HEAD = 16 * 3 * 4 * 4 * 32, 32 * 10  # MACs of a 4x4 convolution to 16 tokens of 32 channels, of the classifier
SCORES = 2 * 16 * 16 * 32  # queries with keys, and the result with values: 16 tokens each, 32 channels

pytestmark = pytest.mark.filterwarnings("ignore:.*keeps its width")


class Tokens(nn.Module):
    """A convolution to 16 tokens of 32 channels, `middle`, the mean over the tokens, a classifier."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(3, 32, 4, 4), middle, nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class OneHead(nn.Module):
    """Attention of one head, whose channels can be cut: scores cost the width of q, their use the width of v."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


class Fused(nn.Module):
    """Attention of four heads of 8 with one layer for queries, keys and values, then an MLP."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.make, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.make(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


def encoder() -> nn.Module:
    return Tokens(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2))


class Decoder(nn.TransformerDecoder):
    """Two layers of masked self-attention, then attention to the same tokens."""

    def __init__(self) -> None:
        super().__init__(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return super().forward(x, x, tgt_mask=mask, tgt_is_causal=True)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
    )


def unfused_vit() -> nn.Module:
    model = small_vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


ATTENTION, MLP = 4 * 16 * 32 * 32 + SCORES, 2 * 16 * 32 * 64
VIT = STEM + HEAD + 2 * (17 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 17 * 17 * 32)  # 17 tokens, two blocks
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], int]] = {
    "own-q-k-v": (OwnAttention, ("q", "k", "v"), STEM + HEAD + ATTENTION),
    "own-qkv": (lambda: Tokens(Fused(False)), ("middle.make",), STEM + HEAD + ATTENTION + MLP),
    "own-qkv-causal": (lambda: Tokens(Fused(True)), ("middle.make",), STEM + HEAD + ATTENTION + MLP),
    "own-one-head": (lambda: Tokens(OneHead()), (), STEM + HEAD + ATTENTION),
    "encoder": (encoder, (), STEM + HEAD + 2 * (ATTENTION + MLP)),
    "decoder": (lambda: Tokens(Decoder()), (), STEM + HEAD + 2 * (2 * ATTENTION + MLP)),
    "torchvision": (torchvision_vit, (), VIT),
    "timm-fused": (small_vit, (), VIT),
    "timm-unfused": (unfused_vit, (), VIT),
}


@pytest.mark.parametrize("name", NETS)
def test_attention_costs_what_is_computed_before_and_after_cuts(name: str) -> None:
    make, protect, hand = NETS[name]
    model = make().eval()
    groups = trace(model, IMAGE, protect=protect)
    cost = Cost.measure(model, IMAGE, groups)
    assert cost.macs_base == count_macs(model, IMAGE) == hand
    for seed in range(3):
        rng, slim = np.random.default_rng(seed), copy.deepcopy(model)
        counts = np.array([rng.integers(group.least, group.size + 1) for group in groups])
        surgery.apply(slim, groups, {g.name: range(n) for g, n in zip(groups, counts, strict=True)})
        assert cost.macs(counts) == count_macs(slim, IMAGE)


def test_channels_of_attention_that_are_cut_cost_less() -> None:
    model = Tokens(OneHead()).eval()
    groups = trace(model, IMAGE)
    assert [group.name for group in groups] == ["stem", "middle.v", "middle.proj"]  # q and k set the scale of attention
    cost = Cost.measure(model, IMAGE, groups)
    half = cost.sizes // 2
    assert cost.macs(half) == STEM // 2 + HEAD // 2 + 16 * (2 * 16 * 32 + 2 * 16 * 16) + 3 * SCORES // 4


def test_a_two_layer_encoder_is_given_the_speed_up_that_it_has() -> None:
    """Without its attention's products, 287,040 of 319,808 MACs, an asked 1.2x would be 1.18x."""
    pruned = raybench.prune(encoder().eval(), IMAGE, speedup=1.2, schedule="one-shot")
    assert pruned.macs_base == 319_808
    assert pruned.macs == count_macs(pruned.model, IMAGE)
    hidden = [layer.linear1.out_features for layer in pruned.model.middle.layers]
    assert pruned.macs == 319_808 - 2 * 16 * 32 * (128 - sum(hidden))
    assert pruned.speedup == pytest.approx(1.2, rel=0.005)


def test_switches_of_attention_are_as_before_after_counting() -> None:
    def switches() -> tuple[bool, ...]:
        backends = torch.backends.cuda
        return (
            torch.backends.mha.get_fastpath_enabled(),
            backends.flash_sdp_enabled(),
            backends.mem_efficient_sdp_enabled(),
            backends.math_sdp_enabled(),
            backends.cudnn_sdp_enabled(),
        )

    before = switches()
    count_macs(encoder(), IMAGE)
    assert switches() == before


def test_torch_prunings_own_count_is_left_as_it_is() -> None:
    """It counts `nn.MultiheadAttention` by a rule of its own, whatever kernel computes it."""
    model = encoder().eval()
    groups = trace(model, IMAGE)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = library_counts(model, IMAGE, groups)[0]
    assert library_counts(model, IMAGE, groups)[0] == plain > count_macs(model, IMAGE)
