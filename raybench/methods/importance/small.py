"""The baseline `small`: no pruning, but a smaller dense network of the same family, trained as long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybench.methods.importance.uniform import Uniform
from raybench.registry import importance


@importance("small")
@dataclass(frozen=True)
class Small(Uniform):
    """A smaller dense network of the model's family, of the nearest cost, with new weights.

    No channel is selected by it: where scores are asked for, they are those of `uniform`. Its network trains by the
    recipe's base stage, for the epochs of the base and of fine-tuning together.
    """

    paper = "a dense network of the family at the same cost, as Liu et al., ICLR 2019, section 3, compare with"
    train: Literal["small"] = "small"
