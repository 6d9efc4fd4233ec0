"""Saves the progress of a long stage in the sweep's storage, so that any machine can resume it."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from typing import Any

import torch

from raybench.storage.base import Storage
from raybench.storage.damage import set_aside
from raybench.storage.packing import packed, unpacked

HEADER = b"raybench checkpoint 1\n"  # then 32 bytes of SHA-256, then what torch.save wrote of a packed state
YOUNG_S = 10.0  # age of a stage from which on a save waits for the disk; before, a power cut costs no more than that


class StageCheckpoint:
    """The last complete state of one stage or cell, under ``checkpoints/<key>/`` (tasks.protocol.Checkpoint)."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage, self._folder = storage, f"checkpoints/{key}"
        self._file = f"{self._folder}/state.pt"
        self._began, self._resumed = time.monotonic(), False

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state with its tensors on the CPU; None if there is none. Never runs pickled code.

        A damaged state is set aside: the stage then starts at its first epoch.
        """
        data = self._storage.read(self._file)
        if data is None:
            return None
        start = len(HEADER) + 32
        content = data[start:]
        if data[:start] != HEADER + hashlib.sha256(content).digest():
            set_aside(self._storage, self._file, "its content is not what was saved, so its stage starts again")
            return None
        self._resumed = True
        return unpacked(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state by `state` (nested dicts, lists, tensors, numbers, strings), atomically.

        What a killed process has saved is kept in any case; a loss of power may take the work of a stage's first
        YOUNG_S seconds, and of a longer stage only what came after the last call.
        """
        buffer = io.BytesIO()
        torch.save(packed(state), buffer)
        content = buffer.getvalue()
        durable = self._resumed or time.monotonic() - self._began > YOUNG_S
        self._storage.replace(self._file, HEADER + hashlib.sha256(content).digest() + content, durable=durable)

    def clear(self) -> None:
        """Delete the saved state; called after the finished result is published."""
        self._storage.delete(self._file)
