"""Base of the frozen records that ids are made of: what a newer field adds is left out where it says nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Frozen(BaseModel):
    """A record that is passed between packages: immutable, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def silent(self) -> Collection[str]:
        """Fields that say nothing here. Dumps leave them out, so that ids from before there were such fields stay."""
        return ()

    @model_serializer(mode="wrap")
    def _without_silent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        silent = self.silent()
        return {name: value for name, value in fields.items() if name not in silent} if silent else fields
