"""Where the dense base comes from: trained, a file, a hub, or the base stage of other data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from raybench.sweep.frozen import Frozen

Transfer = Literal["none", "prune-then-transfer", "transfer-then-prune"]
NONE: Transfer = "none"
PRUNED: Transfer = "prune-then-transfer"
STAGE: Literal["stage"] = "stage"  # kind of weights that the base stage of other data has trained


class Weights(Frozen):
    """Where the dense base comes from; `trained` is by the recipe's base stage."""

    kind: Literal["trained", "file", "hub", "stage"] = "trained"
    identity: str = ""  # SHA-256 of the file, `name@revision` of the hub, or key of the stage
    path: str | None = Field(default=None, exclude=True)  # of the file on this machine; not part of the identity
    source: Any = Field(default=None, exclude=True)  # the trial of that stage, for the plan alone
    new_head: bool = False  # the classifier is new, and the base stage trains

    @property
    def trained(self) -> bool:
        """Whether the base stage trains: from initial weights, or from given ones with a new classifier."""
        return self.kind == "trained" or self.new_head

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        return () if self.new_head else ("new_head",)
