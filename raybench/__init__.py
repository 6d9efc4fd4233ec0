"""raybench: structural pruning methods under one protocol. The public names are resolved when first used."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "load_sweep": "raybench.spec.reader",
    "plan": "raybench.plan",
    "run": "raybench.execution.driver",
    "results": "raybench.results.api",
    "Leaderboard": "raybench.results.leaderboard",
    "load_pruned": "raybench.pipeline.artifact",
    "importance": "raybench.registry",
    "regularizer": "raybench.registry",
    "model": "raybench.registry",
    "dataset": "raybench.registry",
    "Importance": "raybench.methods.protocols",
    "ElementwiseImportance": "raybench.methods.protocols",
    "Regularizer": "raybench.methods.protocols",
    "Layer": "raybench.methods.protocols",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'raybench' has no attribute {name!r}")
