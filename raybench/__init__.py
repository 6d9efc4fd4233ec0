"""Structural pruning methods under one protocol: run sweeps, read their results, prune a model.

Public names are imported when they are first used, so ``import raybench`` takes a few milliseconds.

Example:
    >>> import raybench
    >>> "prune" in raybench.__all__
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybench.errors import NotSupported, RaybenchError, UserError
    from raybench.execution.run import SweepEnd, run_sweep
    from raybench.methods.protocols import (
        Calibration,
        ElementwiseImportance,
        Importance,
        Layer,
        NeighbourImportance,
        PairwiseImportance,
        Regularizer,
    )
    from raybench.methods.trained_selection import Budget, TrainedSelection
    from raybench.pipeline.artifact import load_pruned
    from raybench.pipeline.in_memory import PrunedModel, prune
    from raybench.pipeline.inspection import GroupFacts, Inspection, inspect
    from raybench.plan.plan import plan as plan_sweep
    from raybench.registry import add_plugin, dataset, importance, model, regularizer, selection, token
    from raybench.reports.leaderboard import Leaderboard
    from raybench.results.load import load_results
    from raybench.sweep.reader import load_sweep
    from raybench.tokens.reducer import TokenReducer

    __version__: str

_WHERE = {
    "load_sweep": "raybench.sweep.reader",
    "plan_sweep": "raybench.plan.plan:plan",
    "run_sweep": "raybench.execution.run",
    "SweepEnd": "raybench.execution.run",
    "load_results": "raybench.results.load",
    "Leaderboard": "raybench.reports.leaderboard",
    "prune": "raybench.pipeline.in_memory",
    "PrunedModel": "raybench.pipeline.in_memory",
    "inspect": "raybench.pipeline.inspection",
    "Inspection": "raybench.pipeline.inspection",
    "GroupFacts": "raybench.pipeline.inspection",
    "load_pruned": "raybench.pipeline.artifact",
    "add_plugin": "raybench.registry",
    "importance": "raybench.registry",
    "selection": "raybench.registry",
    "regularizer": "raybench.registry",
    "token": "raybench.registry",
    "model": "raybench.registry",
    "dataset": "raybench.registry",
    "Importance": "raybench.methods.protocols",
    "ElementwiseImportance": "raybench.methods.protocols",
    "TokenReducer": "raybench.tokens.reducer",
    "NeighbourImportance": "raybench.methods.protocols",
    "PairwiseImportance": "raybench.methods.protocols",
    "Regularizer": "raybench.methods.protocols",
    "TrainedSelection": "raybench.methods.trained_selection",
    "Budget": "raybench.methods.trained_selection",
    "Layer": "raybench.methods.protocols",
    "Calibration": "raybench.methods.protocols",
    "RaybenchError": "raybench.errors",
    "UserError": "raybench.errors",
    "NotSupported": "raybench.errors",
}
__all__ = [
    "Budget",
    "Calibration",
    "ElementwiseImportance",
    "GroupFacts",
    "Importance",
    "Inspection",
    "Layer",
    "Leaderboard",
    "NeighbourImportance",
    "NotSupported",
    "PairwiseImportance",
    "PrunedModel",
    "RaybenchError",
    "Regularizer",
    "SweepEnd",
    "TokenReducer",
    "TrainedSelection",
    "UserError",
    "__version__",
    "add_plugin",
    "dataset",
    "importance",
    "inspect",
    "load_pruned",
    "load_results",
    "load_sweep",
    "model",
    "plan_sweep",
    "prune",
    "regularizer",
    "run_sweep",
    "selection",
    "token",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        where, _, attribute = _WHERE[name].partition(":")
        return getattr(importlib.import_module(where), attribute or name)
    if name == "__version__":
        from importlib.metadata import version

        return version("raybench")
    raise AttributeError(f"module 'raybench' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
