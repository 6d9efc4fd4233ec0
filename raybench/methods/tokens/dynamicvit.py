"""DynamicViT: small networks in front of three blocks say which tokens are kept, trained with the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.registry import token
from raybench.tokens.reducer import Stages, TokenReducer
from raybench.tokens.select import kept_tokens
from raybench.tokens.shape import Shape

SPREAD = 0.02  # standard deviation of new weights
STAGES = 3


@token("dynamicvit")
@dataclass(frozen=True)
class DynamicViT(TokenReducer):
    """Predictors in front of a quarter, a half and three quarters of the blocks keep the shares rho, rho^2, rho^3.

    Rao et al., section 3: a predictor sees each token and the mean of all kept ones. While training, its decision is
    drawn (Gumbel-softmax), and tokens that it drops are masked in attention; otherwise the best int(N rho^i) tokens
    are kept and the others are gone. Loss: classification + 2 (kept shares - rho^i)^2 + 0.5 KL to the dense network's
    classes + 0.5 (distance to its tokens)^2. Of 12 blocks these are 3, 6 and 9, as published; a network of two or three
    blocks has fewer stages. rho is what meets the asked speed-up, with which the predictors' own cost counts.

    The recipe's learning rate is that of the predictors, which start from random weights; the network's is a share of
    its highest value, or the recipe's where that is lower. The authors take a hundredth, and leave the network as it is
    for the first 5 of 30 ImageNet epochs; a recipe of a few hundred steps needs a tenth and no such start.

    Attributes:
        ratio_weight: of the squared distance between the shares of kept tokens and the wanted ones.
        distill_weight: of the KL divergence.
        token_weight: of the mean squared distance of kept tokens behind the last norm.
        backbone_rate: the network's learning rate as a share of the recipe's `lr`; published: 0.01.
        frozen: share of the training in which only the predictors learn; published: 0.1667.
    """

    ratio_weight: float = 2.0
    distill_weight: float = 0.5
    token_weight: float = 0.5
    backbone_rate: float = 0.1
    frozen: float = 0.0
    train: Literal["finetune", "none"] = "finetune"
    limits = {  # noqa: RUF012
        "ratio_weight": (0, None),
        "distill_weight": (0, None),
        "token_weight": (0, None),
        "backbone_rate": (0, 1),
        "frozen": (0, 1),
    }
    version = 3
    place = "block"
    needs = "fine-tuning"
    paper = "Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, NeurIPS 2021"

    def blocks(self, shape: Shape) -> tuple[int, ...]:
        """The blocks behind a quarter, a half and three quarters of all, each once."""
        wanted = {round(shape.depth * (i + 1) / (STAGES + 1)) for i in range(STAGES)}
        return tuple(sorted(block for block in wanted if 0 < block < shape.depth))

    def removed(self, shape: Shape, amount: float) -> tuple[int, ...]:
        """Counts that leave int(N rho^i) tokens behind stage i, with rho = 1 - amount; at least one."""
        counts, left = [0] * shape.depth, shape.patches
        for i, block in enumerate(self.blocks(shape)):
            kept = max(1, int(shape.patches * (1 - amount) ** (i + 1)))
            counts[block], left = left - kept, kept
        return tuple(counts)

    def extra_macs(self, shape: Shape, removed: tuple[int, ...]) -> int:
        """The predictors' layers, for the tokens that reach them."""
        width, half, quarter = shape.width, shape.width // 2, shape.width // 4
        each = width * width + width * half + half * quarter + quarter * 2
        return sum(shape.before(removed)[block] * each for block in self.blocks(shape))

    def attach(self, shape: Shape, removed: tuple[int, ...]) -> Stages:
        """The predictors, with new weights."""
        return _Predicted(self, shape, removed)


class _Predicted(Stages):
    """The state holds the decisions of the stages so far, (n, patches) of 0 and 1 each; only while training."""

    learns = True

    def __init__(self, method: DynamicViT, shape: Shape, removed: tuple[int, ...]) -> None:
        super().__init__()
        self.method, self.prefix, self.patches = method, shape.prefix, shape.patches
        self.kept = {block: shape.left(removed)[block] for block in method.blocks(shape)}
        self.predictors = nn.ModuleDict({str(block): _Predictor(shape.width) for block in self.kept})

    def start(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """No decision."""
        return ()

    def before_block(self, block: int, tokens: Tensor, flow: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Draw a decision in training; otherwise remove all tokens but the best ones."""
        if block not in self.kept:
            return tokens, flow
        patches, predictor = tokens[:, self.prefix :], self.predictors[str(block)]
        if not self.training:
            return kept_tokens(tokens, predictor(patches, None)[..., 0], self.kept[block], self.prefix), flow
        before = flow[-1] if flow else torch.ones_like(patches[..., 0])
        drawn = F.gumbel_softmax(predictor(patches, before), hard=True)[..., 0]
        return tokens, (*flow, drawn * before)

    def share(self, flow: tuple[Tensor, ...]) -> Tensor | None:
        """The last decision, 1 for the prefix."""
        return F.pad(flow[-1], (self.prefix, 0), value=1.0) if flow else None

    def weights(self, flow: tuple[Tensor, ...]) -> Tensor | None:
        """Dropped tokens don't count in a mean, through which decisions get no gradient: with one, few are dropped."""
        share = self.share(flow)
        return None if share is None else share.detach()

    def extra_loss(
        self, outputs: Tensor, tokens: Tensor, flow: tuple[Tensor, ...], teacher: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Weighted sum of the loss on shares and of both distillations."""
        classes, whole = teacher
        wanted = [count / self.patches for count in self.kept.values()]
        shares = [(kept.mean(1) - share).square().mean() for kept, share in zip(flow, wanted, strict=True)]
        ratio = torch.stack(shares).mean()
        soft = F.kl_div(outputs.log_softmax(1), classes.log_softmax(1), reduction="batchmean", log_target=True)
        kept = flow[-1].detach()
        apart = (tokens - whole)[:, self.prefix :].square().mean(2)
        distance = (apart * kept).sum() / kept.sum().clamp_min(1)
        weights = self.method
        total: Tensor = weights.ratio_weight * ratio + weights.distill_weight * soft + weights.token_weight * distance
        return total

    def learning_rates(self, now: float, highest: float, done: float) -> tuple[float, float]:
        """The network's is low, or 0 at the start; the predictors' is the recipe's."""
        method = self.method
        return 0.0 if done < method.frozen else min(now, method.backbone_rate * highest), now


class _Predictor(nn.Module):
    """Log-probabilities of keeping and dropping each token, from itself and the mean of the kept ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.local = half
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.leave = nn.Sequential(
            nn.Linear(width, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=SPREAD)
                nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor, kept: Tensor | None) -> Tensor:
        """(n, patches, channels), and 1 for kept ones (n, patches), None for all -> (n, patches, 2)."""
        entered = self.enter(patches)
        local, shared = entered[..., : self.local], entered[..., self.local :]
        if kept is None:
            mean = shared.mean(1, keepdim=True)
        else:
            mean = (shared * kept[..., None]).sum(1, keepdim=True) / kept.sum(1)[:, None, None].clamp_min(1)
        out: Tensor = self.leave(torch.cat([local, mean.expand_as(shared)], 2))
        return out.log_softmax(2)
