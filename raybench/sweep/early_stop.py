"""The `early_stop` block of a recipe: after which epochs of fine-tuning a cell is compared, and how many go on."""

from __future__ import annotations

from pydantic import Field

from raybench.sweep.bounds import MOST_EPOCHS, Whole
from raybench.sweep.frozen import Frozen


class EarlyStop(Frozen):
    """Successive halving of the methods of a board, asynchronously (Li et al., ASHA, MLSys 2020; names as in Ray Tune).

    Attributes:
        grace_period: epochs of fine-tuning that every cell gets.
        reduction_factor: at each rung the best of so many go on; the next rung has so many times the epochs.
    """

    grace_period: Whole = Field(ge=1, le=MOST_EPOCHS)
    reduction_factor: Whole = Field(default=3, ge=2, le=100)

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Epochs after which cells of a stage of `epochs` are compared.

        Example:
            >>> EarlyStop(grace_period=5).rungs(100)
            (5, 15, 45)
        """
        found, rung = [], self.grace_period
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction_factor
        return tuple(found)
