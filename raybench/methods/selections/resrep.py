"""resrep: a 1x1 convolution behind each one inside a block learns which rows go, and is folded away without loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.methods.internal import Internal, internals
from raybench.methods.trained_selection import Budget, Kept, TrainedSelection
from raybench.registry import selection

MATTERS = 1e-3  # rows with a larger one are worth a warning
CONVOLVE = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # dimensions of a batch -> 1x1 convolution


class Compactor(nn.Module):
    """A 1x1 convolution with a square matrix, the identity at first, on the output of a batch norm."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_var is not None  # `internals` gives norms with statistics only
        channels = norm.num_features
        weight, variance = norm.weight.detach(), norm.running_var
        self.weight = nn.Parameter(torch.eye(channels, dtype=weight.dtype, device=weight.device))
        self.register_buffer("mask", torch.ones(channels, 1, dtype=weight.dtype, device=weight.device))
        self.statistics = type(norm)(channels, norm.eps, norm.momentum, affine=False).to(weight)  # of the output
        assert self.statistics.running_var is not None
        self.statistics.running_var.copy_(weight.square() * variance / (variance + norm.eps))

    mask: Tensor
    statistics: _BatchNorm

    def forward(self, inputs: Tensor) -> Tensor:
        """The product with each pixel's channels; in training it measures the output's variance, too."""
        kernel = self.weight.view(*self.weight.shape, *[1] * (inputs.dim() - 2))
        output: Tensor = CONVOLVE[inputs.dim()](inputs, kernel)
        if self.training:
            with torch.no_grad():
                self.statistics(output.detach())
        return output

    def after(self, norm: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """The forward hook of the norm."""
        return self(output)


@selection("resrep", limits={"strength": (0, None), "momentum": (0, 0.999), "start": (0, None), "every": (1, None),
                             "rows": (1, None)})  # fmt: skip
@dataclass
class ResRep(TrainedSelection):
    """grad Q = mask * dL/dQ + strength * Q / ||row||, Q a compactor behind each convolution and batch norm in a block.

    Ding et al., section 3: their gradient resetting, and their convolutional re-parameterization at the end.

    After `start` epochs the globally smallest rows are masked, every `every` steps at most `rows` more, until the
    speed-up is met: their loss gradient is dropped, and the second term shrinks them to nothing. In the end Q is folded
    into convolution and batch norm; rows with norms below 1e-5 go without changing the outputs.

    The rest of the network trains with the recipe, Q with its learning rate, `momentum`, and no decay. The defaults
    are those of 180 and more epochs; short schedules need more `strength`, less `momentum`, and smaller steps.
    """

    strength: float = 1e-4
    momentum: float = 0.99
    start: int = 5  # epochs before the first rows are masked
    every: int = 200  # steps between two maskings
    rows: int = 4  # how many more rows one masking takes
    _blocks: tuple[Internal, ...] = field(default=(), init=False, repr=False)
    _compactors: tuple[Compactor, ...] = field(default=(), init=False, repr=False)
    _hooks: tuple[Any, ...] = field(default=(), init=False, repr=False)
    _epochs: int = field(default=0, init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)  # since the first `start` epochs
    _met: bool = field(default=False, init=False, repr=False)  # whether the masked rows meet the speed-up

    requires = "batch-norm"
    paper = "Ding et al., ResRep: Lossless CNN pruning via decoupling remembering and forgetting, ICCV 2021"

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Hang a compactor behind the batch norm of every group inside a block. NotSupported where there is none."""
        self._budget, self._blocks = budget, internals(model, budget.groups, budget.example, "resrep")
        self._compactors = tuple(Compactor(block.norm) for block in self._blocks)
        for block, compactor in zip(self._blocks, self._compactors, strict=True):
            block.norm.add_module("compactor", compactor)
        self._hooks = tuple(
            block.norm.register_forward_hook(compactor.after)
            for block, compactor in zip(self._blocks, self._compactors, strict=True)
        )

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """The compactors' matrices."""
        return tuple(compactor.weight for compactor in self._compactors)

    def own_settings(self) -> Mapping[str, Any]:
        """Their momentum; no decay."""
        return {"momentum": self.momentum, "weight_decay": 0.0, "nesterov": False}

    def add_gradients(self) -> None:
        """Mask more rows where it is time; grad Q = mask * grad Q + strength * Q / ||row||."""
        if self._epochs >= self.start:
            self._steps += 1
            if self._steps % self.every == 0:
                self._mask_more()
        for compactor in self._compactors:
            weight, gradient = compactor.weight.detach(), compactor.weight.grad
            assert gradient is not None  # every compactor takes part in the loss
            norms = weight.norm(dim=1, keepdim=True)
            gradient.mul_(compactor.mask).add_(weight / norms.clamp(min=torch.finfo(norms.dtype).tiny) * self.strength)

    def _mask_more(self) -> None:
        """Mask the smallest of those rows that have to go, at most `rows` more than now."""
        norms = self._norms()
        gone = [np.setdiff1d(np.arange(len(one)), kept) for one, kept in zip(norms, self._chosen(norms), strict=True)]
        masked = sum(int((compactor.mask == 0).sum()) for compactor in self._compactors)
        wanted = sum(map(len, gone))
        most = wanted if self._met else min(wanted, masked + self.rows)
        self._met = most == wanted
        which = np.concatenate([np.full(len(one), b) for b, one in enumerate(gone)]).astype(np.int64)
        row = np.concatenate(gone).astype(np.int64)
        value = np.concatenate([one[rows] for one, rows in zip(norms, gone, strict=True)])
        first = np.argsort(value, kind="stable")[:most]
        for b, compactor in enumerate(self._compactors):
            compactor.mask.fill_(1.0)
            compactor.mask[torch.from_numpy(row[first][which[first] == b]).to(compactor.mask.device)] = 0.0

    def _norms(self) -> list[np.ndarray]:
        """The norm of each row, one array per block."""
        return [one.weight.detach().double().norm(dim=1).cpu().numpy() for one in self._compactors]

    def _chosen(self, norms: list[np.ndarray]) -> list[np.ndarray]:
        """The rows that stay where the smallest go until the speed-up is met."""
        kept = self._budget.choose({block.group: one for block, one in zip(self._blocks, norms, strict=True)})
        return [kept[block.group] for block in self._blocks]

    def end_epoch(self) -> None:
        """Count it."""
        self._epochs += 1

    def kept(self) -> Kept:
        """The rows without a mask; where the stage was too short to mask enough, the largest ones."""
        norms = self._norms()
        if self._met:
            kept = [(one.mask[:, 0] > 0).nonzero()[:, 0].cpu().numpy() for one in self._compactors]
        else:
            kept = self._chosen(norms)
        gone = np.concatenate([np.delete(one, rows) for one, rows in zip(norms, kept, strict=True)])
        if len(large := gone[gone >= MATTERS]):
            warnings.warn(
                f"resrep: {len(large)} of {len(gone)} rows that go have norms above {MATTERS:g}, up to "
                f"{large.max():.2g}: the cut changes the outputs. More epochs of sparsify, a schedule that ends at a "
                "small lr, or more strength make them smaller",
                stacklevel=2,
            )
        return {block.group: rows for block, rows in zip(self._blocks, kept, strict=True)}

    @torch.no_grad()
    def fold(self) -> None:
        """Fold every compactor into its convolution and batch norm, whose outputs stay the same, in training as well.

        With G = gamma / sqrt(var + eps) the block is Q (G (W x - mean) + beta): the convolution becomes Q G W, the mean
        Q G mean, the bias Q beta. The variance is the measured one of the compactor's output, which the scale undoes.
        """
        for hook, block, compactor in zip(self._hooks, self._blocks, self._compactors, strict=True):
            hook.remove()
            norm, conv, variance = block.norm, block.conv, compactor.statistics.running_var
            del norm.compactor
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert variance is not None
            matrix = compactor.weight.double()
            scaled = matrix * (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt())
            conv.weight.copy_((scaled @ conv.weight.double().flatten(1)).view_as(conv.weight))
            if conv.bias is not None:
                conv.bias.copy_(scaled @ conv.bias.double())
            norm.running_mean.copy_(scaled @ norm.running_mean.double())
            norm.bias.copy_(matrix @ norm.bias.double())
            norm.running_var.copy_(variance)
            norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())

    def state_dict(self) -> Mapping[str, Tensor]:
        """The counters; matrices and masks are part of the network."""
        return {"counters": torch.tensor([self._epochs, self._steps, int(self._met)])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the counters."""
        self._epochs, self._steps, met = (int(value) for value in state["counters"])
        self._met = bool(met)
