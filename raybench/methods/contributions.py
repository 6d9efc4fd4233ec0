"""The Gram matrix of the input channels' contributions to a layer's output, which CP and ThiNet both need.

Let x_j be the contribution of input channel j alone to the output, over the sampled points (image, location) and all
output channels; the output is sum_j x_j plus the bias. Both criteria only need M_ij = <x_i, x_j>. With patches X_k
(points x channels, one per kernel tap) and weights W_k (channels x outputs) it is

    M = sum_{k, l} (X_k^T X_l) * (W_k W_l^T)      (* elementwise)

so that the vectors x_j, of length points times output channels, are never computed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.records import Group, Member
from raybench.methods.protocols import Importance, Layer

MOST_CHANNELS = 16384  # M is square in the channels: 2 GiB at this width


@dataclass
class Patches:
    """The inputs that a layer's sampled output points depend on: one (taps, points, channels) tensor per batch."""

    batches: list[Tensor] = field(default_factory=list)
    images: int = 0
    _gram: Tensor | None = None

    def gram(self, layer: Layer) -> Tensor:
        """(channels, channels) float64 matrix M of `layer`, an input side; computed once."""
        if self._gram is None:
            self._gram = contribution_gram(torch.cat(self.batches, 1).double(), layer.weight.double(), _groups(layer))
        return self._gram


class ChannelSelection(Importance):
    """The common part of CP and ThiNet: they score input sides of convolutions and linear layers at sampled points.

    Subclasses have the parameters `points` (locations per image) and `reconstruct`.
    """

    needs = "activations"
    reconstructs = True

    def watched(self, group: Group) -> tuple[Member, ...]:
        """The layers that read the group's channels. NotSupported when there is none."""
        consumers = tuple(m for m in group.members if m.side == "in" and m.kind in ("conv", "linear"))
        if not consumers:
            raise NotSupported(f"{group.members[0].layer}: no convolution or linear layer reads its channels")
        return consumers

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Patches | None) -> Patches:
        """Store the patches of `points` random output locations of every image (all where there are fewer)."""
        state = state or Patches()
        state.batches.append(sample_patches(layer, inputs, self.points, state.images))
        state.images += len(inputs)
        return state

    def select(self, gram: np.ndarray) -> np.ndarray:
        """(n,) scores of n terms from their Gram matrix M, (n, n) float64; terms with high scores are kept."""
        raise NotImplementedError(f"{type(self).__name__} must define select(gram)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) scores; None for a layer that wasn't watched.

        Channels of one unit are removed together, so their contributions are summed and the unit's score is divided
        among them.
        """
        if layer.state is None:
            return None
        gram = layer.state.gram(layer)
        owner = _owners(torch.arange(len(gram)) if layer.unit is None else layer.unit).to(gram.device)
        count = int(owner.max()) + 1
        if count < len(owner):
            rows = gram.new_zeros(count, len(owner)).index_add_(0, owner, gram)
            gram = gram.new_zeros(count, count).index_add_(1, owner, rows)
        scores = torch.as_tensor(self.select(gram.cpu().numpy()), device=gram.device)
        return (scores / torch.bincount(owner, minlength=count))[owner]


def sample_patches(layer: Layer, inputs: Tensor, points: int, seen: int) -> Tensor:
    """(taps, images x points, channels) of `inputs`, at locations drawn from the layer's name and `seen` alone.

    `seen`: images in earlier batches. NotSupported for more than MOST_CHANNELS channels and for layers other than
    Linear and Conv2d.
    """
    if len(layer.weight) > MOST_CHANNELS:
        raise NotSupported(f"{layer.name}: {len(layer.weight)} input channels; at most {MOST_CHANNELS} can be compared")
    digest = hashlib.sha256(f"{layer.name}:{seen}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    if isinstance(layer.module, nn.Linear):
        tokens = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        chosen = _locations(tokens.shape[1], len(inputs), points, generator).to(inputs.device)
        picked = tokens.gather(1, chosen.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        return picked.flatten(0, 1).unsqueeze(0)
    if not isinstance(layer.module, nn.Conv2d):
        raise NotSupported(f"{layer.name}: can't split the output of {type(layer.module).__name__} among its inputs")
    return _conv_patches(layer.module, inputs, points, generator)


def contribution_gram(patches: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """M of the module's docstring, (channels, channels).

    `patches`: (taps, points, channels). `weight`: (channels, outputs, *kernel). Channels of different convolution
    groups share no output: their entries are 0.
    """
    taps = [k for k in range(len(patches)) if bool(patches[k].any())]  # at 1x1 only the middle of a padded kernel
    points = patches.unflatten(2, (groups, -1)).transpose(1, 2)  # (taps, groups, points, channels / groups)
    weights = weight.flatten(2).unflatten(0, (groups, -1)).movedim(3, 0) if weight.dim() > 2 else weight[None, None]
    width = points.shape[3]
    total = patches.new_zeros(groups, width, width)
    for a, k in enumerate(taps):
        for tap in taps[a:]:
            block = (points[k].mT @ points[tap]).mul_(weights[k] @ weights[tap].mT)
            total += block if k == tap else block + block.mT
    return torch.block_diag(*total)


def _conv_patches(conv: nn.Conv2d, inputs: Tensor, points: int, generator: torch.Generator) -> Tensor:
    padded = F.pad(inputs, _padding(conv), mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    n, channels, height, width = padded.shape
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    rows_out, columns_out = ((s - r - 1) // t + 1 for s, r, t in zip((height, width), reach, conv.stride, strict=True))
    chosen = _locations(rows_out * columns_out, n, points, generator).to(inputs.device)
    taps = [torch.arange(k, device=inputs.device) * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    rows = (chosen // columns_out * conv.stride[0])[..., None] + taps[0]  # (n, points, kh)
    columns = (chosen % columns_out * conv.stride[1])[..., None] + taps[1]
    index = (rows[..., :, None] * width + columns[..., None, :]).flatten(1)  # (n, points * kh * kw)
    picked = padded.flatten(2).gather(2, index.unsqueeze(1).expand(-1, channels, -1))
    return picked.unflatten(2, (chosen.shape[1], -1)).permute(3, 0, 2, 1).flatten(1, 2)


def _locations(available: int, images: int, points: int, generator: torch.Generator) -> Tensor:
    """(images, min(points, available)) output locations, drawn with replacement, as the authors do."""
    if available <= points:
        return torch.arange(available).expand(images, -1)
    return torch.randint(available, (images, points), generator=generator)


def _padding(conv: nn.Conv2d) -> list[int]:
    """Padding at left, right, top, bottom."""
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    pads = (0, 0) if isinstance(conv.padding, str) else conv.padding  # the other word is "valid"
    return [pad for pad in reversed(pads) for _ in range(2)]


def _owners(unit: Tensor) -> Tensor:
    """(channels,) consecutive ids: equal for channels of the same unit; each channel of another group has its own."""
    alone = torch.arange(len(unit)) + int(unit.max()) + 1
    return torch.unique(torch.where(unit >= 0, unit, alone), return_inverse=True)[1]


def _groups(layer: Layer) -> int:
    return getattr(layer.module, "groups", 1)
