"""Which networks are plain vision transformers, whose tokens may go; others are refused by name with the reason."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from raybench.errors import NotSupported, with_article
from raybench.groups.attention import eval_mode
from raybench.tokens.network import TokenViT
from raybench.tokens.reducer import Stages
from raybench.tokens.shape import Shape

POOLS = ("token", "avg")  # a maximum, or attention over tokens, has no weighted form
NEAR = 1e-4  # relative to the largest output


def shape_of(model: nn.Module, example: Tensor) -> Shape:
    """The sizes of a plain vision transformer.

    Plain is timm's `VisionTransformer` of ordinary blocks: attention, then an MLP, with a class token or the mean over
    tokens in front of the classifier. Distillation and register tokens stay, as the class token does.

    Args:
        model: any network; it isn't changed.
        example: one image, (1, channels, height, width).

    Returns:
        Its sizes for images of that size.

    Raises:
        NotSupported: the network isn't plain; says in what.
    """
    if why := _why_not(model):
        raise NotSupported(f"tokens can't be removed from {type(model).__name__}: {why}")
    vit: Any = model
    with eval_mode(model), torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(example[:1]))
        apart = _apart(model, example)
    if not apart <= NEAR:
        raise NotSupported(
            f"tokens can't be removed from {type(model).__name__}: its forward does more than its blocks one by one; "
            f"outputs differ by {apart:.1e} of the largest"
        )
    prefix = int(vit.num_prefix_tokens)
    dims = tuple(int(block.attn.head_dim) for block in vit.blocks)
    return Shape(tokens.shape[1] - prefix, prefix, tokens.shape[2], dims)


def _why_not(model: nn.Module) -> str | None:
    """What of `model` isn't plain, as far as its modules tell; None if all is."""
    if not isinstance(model, VisionTransformer):
        return "it is no VisionTransformer of timm, whose blocks see one list of tokens"
    if model.global_pool not in POOLS or model.attn_pool is not None:
        return f"it pools by {model.global_pool!r}; expected the class token or the mean over tokens"
    if not isinstance(model.patch_drop, nn.Identity):
        return "it drops patches at random while it trains"
    for number, block in enumerate(model.blocks):
        if type(block) is not Block:
            found = with_article(type(block).__name__)
            return f"block {number} is {found}; expected timm's Block: attention, then an MLP"
        if type(block.attn) is not Attention:
            found = with_article(type(block.attn).__name__)
            return f"the attention of block {number} is {found}; expected timm's Attention"
    return None


def _apart(model: nn.Module, example: Tensor) -> float:
    """How far the outputs of the blocks one by one are from the network's, relative to the largest."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(1, *example.shape[1:], generator=draw).to(example.device, example.dtype)
    expected, found = model(image), TokenViT(model, Stages())(image)
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny))
