"""Where the dense base comes from: trained, a file, a hub, or the base stage of other data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Transfer = Literal["none", "prune-then-transfer", "transfer-then-prune"]
NONE: Transfer = "none"
PRUNED: Transfer = "prune-then-transfer"
STAGE: Literal["stage"] = "stage"  # kind of weights that the base stage of other data has trained


class Weights(BaseModel):
    """Where the dense base comes from; `trained` is by the recipe's base stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trained", "file", "hub", "stage"] = "trained"
    identity: str = ""  # SHA-256 of the file, `name@revision` of the hub, or key of the stage
    path: str | None = Field(default=None, exclude=True)  # of the file on this machine; not part of the identity
    source: Any = Field(default=None, exclude=True)  # the trial of that stage, for the plan alone
    new_head: bool = False  # the classifier is new, and the base stage trains

    @property
    def trained(self) -> bool:
        """Whether the base stage trains: from initial weights, or from given ones with a new classifier."""
        return self.kind == "trained" or self.new_head

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `new_head` out where it is false: ids from before there was the field stay valid."""
        fields: dict[str, Any] = dump(self)
        return fields if self.new_head else {name: value for name, value in fields.items() if name != "new_head"}
