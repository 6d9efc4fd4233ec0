"""One network pruned in memory: no sweep, no storage, no training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raybench import registry
from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration, Importance
from raybench.scoring.scorer import Scoring
from raybench.selection import refit
from raybench.selection.records import Cut
from raybench.selection.select import select
from raybench.sweep.resolve import NO_DATA


@dataclass(frozen=True)
class PrunedModel:
    """A pruned network and what it costs. MACs are per image."""

    model: nn.Module  # an ordinary module, in the mode (train or eval) of the network that was given
    speedup: float  # base MACs / MACs
    macs_base: int
    macs: int
    params_base: int
    params: int
    kept: Mapping[str, tuple[int, ...]]  # group name -> kept unit indices, ascending
    reason: str | None  # why the asked speed-up was missed by more than 0.5 %; None when it was met


def prune(
    model: nn.Module,
    example: Tensor,
    speedup: float,
    criterion: str | Importance = "magnitude-l2",
    *,
    params: Mapping[str, Any] | None = None,
    strategy: str = "protected-global",
    schedule: str | None = None,
    calibration: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 64,
    keep: Sequence[str] = (),
    parts: Sequence[str] = (),
    round_to: int = 1,
    seed: int = 0,
) -> PrunedModel:
    """Prune a copy of `model` to an asked speed-up. Nothing is trained; fine-tune the result yourself.

    Args:
        model: any network whose channels can be followed; it is left as it was.
        example: one batch as the network takes it, (n, channels, height, width), on the network's device.
        speedup: base MACs / MACs to reach, above 1.
        criterion: a registered criterion's name (`raybench methods` lists them), or a criterion of your own.
        params: parameters of a named criterion, e.g. ``{"points": 20}`` for ``cp``.
        strategy: ``protected-global``, ``global``, ``local`` or ``isomorphic``.
        schedule: ``progressive``, ``iterative`` or ``one-shot``; None: progressive for criteria that need weights
            only, iterative for those that need data.
        calibration: images (n, channels, height, width), normalised as the network expects, and labels (n,) int64;
            needed by criteria that look at activations or gradients.
        batch_size: of the passes over the calibration images.
        keep: names of modules whose outputs keep their width.
        parts: parts of attention models that may shrink, of ``embed``, ``head-dim``, ``heads``, ``mlp``; empty: the
            default.
        round_to: kept channels are multiples of it.
        seed: of criteria that draw random numbers.

    Returns:
        The pruned network with its exact cost.

    Raises:
        UserError: an unknown name, a speed-up of at most 1, or missing calibration images.
        NotSupported: the network's channels can't be followed, or the criterion scores none of them.

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3))
        >>> pruned = raybench.prune(net, torch.zeros(1, 3, 8, 8), speedup=2)
        >>> (pruned.model[0].out_channels, pruned.macs_base, pruned.macs)
        (8, 24768, 12384)
    """
    method = _criterion(criterion, params)
    if schedule is None:
        schedule = "progressive" if method.needs in NO_DATA else "iterative"
    images = _calibration(method, calibration, batch_size, seed)
    groups = trace(model, example, prune=tuple(parts), protect=tuple(keep))
    scoring = Scoring(method, model, images, seed)
    cut = select(scoring, example[:1], groups, [speedup], strategy=strategy, schedule=schedule, round_to=round_to)[
        speedup
    ]
    pruned = copy.deepcopy(model)
    surgery.apply(pruned, groups, cut.kept)
    refit.reconstruct(method, model, pruned, groups, cut.kept, images, stage="surgery")
    return _result(pruned, cut)


def _criterion(criterion: str | Importance, params: Mapping[str, Any] | None) -> Importance:
    if isinstance(criterion, Importance):
        if params:
            raise UserError("params: a criterion that is an object already has its parameters; found params as well")
        return criterion
    entry = registry.importance.entry(criterion)
    if unknown := sorted(set(params or {}) - set(entry.params)):
        raise UserError(
            f"{criterion} has no parameter {unknown[0]!r}. Known: {', '.join(sorted(entry.params)) or 'none'}"
        )
    found: Importance = registry.importance.load(criterion)(**(params or {}))
    return found


def _calibration(
    method: Importance, given: tuple[Tensor, Tensor] | None, batch_size: int, seed: int
) -> Calibration | None:
    """The images a data-driven criterion looks at; UserError when it needs some and none are given."""
    if given is None:
        if method.needs not in NO_DATA or method.reconstructs:
            raise UserError(
                f"{type(method).__name__} needs {method.needs}: give calibration=(images, labels), "
                "normalised as the network expects them"
            )
        return None
    images, labels = given
    if len(images) != len(labels):
        raise UserError(
            f"calibration: found {len(images)} images and {len(labels)} labels; expected one label an image"
        )
    return Calibration(images, labels, batch_size, generator=torch.Generator().manual_seed(seed))


def _result(model: nn.Module, cut: Cut) -> PrunedModel:
    return PrunedModel(
        model, cut.speedup, cut.macs_base, cut.macs, cut.params_base, cut.params, dict(cut.kept), cut.reason
    )
