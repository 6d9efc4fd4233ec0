"""Mean and standard deviation of the pixels of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """How pixels in 0..1 are normalised: (pixels - mean) / std, both (1, channels, 1, 1) on the training device."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Scale:
        """The scale of a dataset's figures."""
        shape = (1, len(mean), 1, 1)
        return cls(torch.tensor(mean, device=device).reshape(shape), torch.tensor(std, device=device).reshape(shape))

    def __call__(self, pixels: Tensor) -> Tensor:
        """The pixels normalised, as a new tensor."""
        return pixels.sub(self.mean).div_(self.std)
