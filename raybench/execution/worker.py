"""What a process needs to know to run units, and how it runs one. The same for Ray's actors and for ``--local``."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from raybench.pipeline.outcome import Outcome
from raybench.plan import Unit
from raybench.storage.open import open_storage


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker, here or on another machine, is told beside the unit. Plain data."""

    storage: str  # address
    data_roots: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, bytes] = field(default_factory=dict)  # file name -> content
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Threads that a unit computes with: the same wherever it runs, so that its numbers are."""
        return max(1, int(self.cpus))


def preload() -> None:
    """Import everything that units need, once per process."""
    from raybench.pipeline import trial  # noqa: F401


def execute(unit: Unit, assignment: Assignment, report: Callable[[str], None] = lambda stage: None) -> Outcome:
    """Run one unit in this process, isolated from those before it. A trial's failure is an outcome."""
    from raybench.execution.isolation import isolated
    from raybench.pipeline.room import Room
    from raybench.pipeline.trial import run_unit

    room = Room(
        storage=open_storage(assignment.storage),
        device=_device(assignment.gpus),
        data_roots={name: Path(root) for name, root in assignment.data_roots.items()},
        node=_node(),
    )
    with isolated(unit.key, assignment.threads):
        return run_unit(unit, room, report)


def install_plugins(plugins: Mapping[str, bytes]) -> None:
    """Make the names in the plug-in files known to this process's registries; once per content.

    For workers: the process that was given the files themselves knows them already.
    """
    for name, content in plugins.items():
        _install(name, content)


@cache
def _install(name: str, content: bytes) -> None:
    from raybench import registry

    folder = Path(_plugin_folder().name) / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(content)
    registry.add_plugin(file)


@cache
def _plugin_folder() -> tempfile.TemporaryDirectory:
    """Goes away with the process."""
    return tempfile.TemporaryDirectory(prefix="raybench-plugins-")


@cache
def _node():  # noqa: ANN202 - its module imports torch's neighbours
    from raybench.pipeline.exclusive import Node

    return Node()


def _device(gpus: float):  # noqa: ANN202 - torch is imported late
    import torch

    if gpus <= 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    if gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)
    return torch.device("cuda")
