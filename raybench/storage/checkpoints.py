"""Saves the progress of a long stage in the sweep's storage, so that any machine can resume it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from raybench.storage.base import Storage


class StageCheckpoint:
    """The last complete state of one stage or cell, under ``checkpoints/<key>/`` (tasks.protocol.Checkpoint)."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage, self._folder = storage, f"checkpoints/{key}"
        self._file = f"{self._folder}/state.pt"

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state with its tensors on the CPU; None if there is none. Never runs pickled code."""
        data = self._storage.read(self._file)
        return None if data is None else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state by `state` (nested dicts, lists, tensors, numbers, strings), atomically."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._storage.replace(self._file, buffer.getvalue())

    def clear(self) -> None:
        """Delete the saved state; called after the finished result is published."""
        self._storage.delete(self._file)
