"""A plain vision transformer whose tokens a method removes on their way through the blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raybench.tokens.attention import attend
from raybench.tokens.reducer import Stages

TINY = 1e-6  # where all tokens have the weight 0


class TokenViT(nn.Module):
    """The blocks of timm's `VisionTransformer`, called part by part, with a method's stages in between.

    Args:
        vit: a network that `raybench.tokens.plain.shape_of` accepts; it is used, not copied.
        stages: what a method does; the base class keeps all tokens, and the outputs are those of `vit`.
    """

    def __init__(self, vit: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.vit, self.stages = vit, stages
        self._last: tuple[Tensor, Any] | None = None  # tokens and state of a training pass, for the extra loss

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, classes)."""
        vit: Any = self.vit
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        flow = self.stages.start(tokens)
        for number, block in enumerate(vit.blocks):
            tokens, flow = self._through(number, block, tokens, flow)
        tokens = vit.norm(tokens)
        keep = self.training and self.stages.learns and torch.is_grad_enabled()
        self._last = (tokens, flow) if keep else None
        outputs: Tensor = vit.forward_head(self._weighted(tokens, self.stages.weights(flow)))
        return outputs

    def _through(self, number: int, block: Any, tokens: Tensor, flow: Any) -> tuple[Tensor, Any]:
        """Tokens and state after one block: timm's `Block`, with the stages before it and before its MLP."""
        stages = self.stages
        tokens, flow = stages.before_block(number, tokens, flow)
        added, seen = attend(
            block.attn, block.norm1(tokens), bias=stages.bias(flow), share=stages.share(flow),
            wanted=stages.reads_attention(number),
        )  # fmt: skip
        tokens = tokens + block.drop_path1(block.ls1(added))
        tokens, flow = stages.before_mlp(number, tokens, seen, flow)
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens)))), flow

    def _weighted(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        """`tokens` scaled such that their plain mean is the weighted one; unchanged for a network that doesn't pool."""
        vit: Any = self.vit
        if weights is None or vit.global_pool != "avg":
            return tokens
        first = 0 if vit.pool_include_prefix else vit.num_prefix_tokens
        pooled = weights[:, first:]
        scale = pooled * (pooled.shape[1] / pooled.sum(1, keepdim=True).clamp_min(TINY))
        return torch.cat([tokens[:, :first], tokens[:, first:] * scale[..., None].to(tokens.dtype)], 1)

    @property
    def learns(self) -> bool:
        """Whether `extra_loss` counts in training."""
        return self.stages.learns

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network itself trains without decay: position embeddings, tokens."""
        asked: Any = getattr(self.vit, "no_weight_decay", set)
        return {f"vit.{name}" for name in asked()}

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """The method's own parameters, which have a learning rate of their own."""
        return tuple(self.stages.parameters())

    def learning_rates(self, now: float, highest: float, done: float) -> tuple[float, float]:
        """Learning rates of the network's and of the method's own parameters; see `Stages.learning_rates`."""
        return self.stages.learning_rates(now, highest, done)

    def extra_loss(self, outputs: Tensor, images: Tensor, teacher: nn.Module) -> Tensor:
        """What the method adds to the loss of the training pass that has just given `outputs`.

        Args:
            outputs: (n, classes).
            images: the batch.
            teacher: the whole network; it gets no gradients.

        Returns:
            A scalar.
        """
        assert self._last is not None  # a training pass came before
        (tokens, flow), self._last = self._last, None
        known: Any = teacher
        with torch.no_grad():
            whole = known.forward_features(images)
            expected = known.forward_head(whole)
        return self.stages.extra_loss(outputs, _normed(self.vit, tokens), flow, (expected, _normed(known, whole)))


def _normed(vit: Any, tokens: Tensor) -> Tensor:
    """`tokens` behind the last norm, which a network that pools has behind the mean."""
    found: Tensor = vit.fc_norm(tokens) if isinstance(vit.norm, nn.Identity) else tokens
    return found
