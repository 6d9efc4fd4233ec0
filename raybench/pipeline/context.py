"""What stages get besides the trial: storage, device, data folders, and the lock of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raybench.pipeline.exclusive import Machine
from raybench.storage.base import Storage
from raybench.tasks.training.team import ALONE, Alone, Peers

Note = Callable[..., None]  # note(resumed_from=3) adds facts to the journal


@dataclass(frozen=True)
class StageContext:
    """Where a stage runs. Nothing in it may change a number, timings aside."""

    storage: Storage
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data_roots: Mapping[str, Path] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)
    cpus: float = 1.0  # that the unit may use
    share: float | None = None  # of the GPU; None on a CPU
    share_note: str = ""  # why; empty where the sweep says it
    team: Alone | Peers = ALONE  # processes that train together; this is the first of them
