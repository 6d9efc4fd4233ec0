"""Where a stage works: the storage, the device and the folders that are this machine's business, not the trial's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raybench.pipeline.exclusive import Node
from raybench.storage.base import Storage


@dataclass(frozen=True)
class Room:
    """What a stage is handed beside its trial. Nothing in here may change a number (timings aside)."""

    storage: Storage
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data_roots: Mapping[str, Path] = field(default_factory=dict)
    node: Node = field(default_factory=Node)
