"""One network pruned in memory: no sweep, no storage, no training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raybench import registry
from raybench.catalogue import evidence_kinds, needs_images
from raybench.errors import NotSupported, UserError, counted, nearest
from raybench.groups import surgery
from raybench.groups.blocks import removable_blocks
from raybench.groups.records import Groups
from raybench.groups.trace import PARTS, trace
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.repair import criterion_named
from raybench.models.baked import baked_copy, computes_weights
from raybench.pipeline.network import layers_left
from raybench.pipeline.outputs import Loss, checked, class_loss, return_scores, returning_tensors
from raybench.scoring.scorer import Scoring
from raybench.selection import refit
from raybench.selection.joint import Removable, select_jointly
from raybench.selection.records import Cut
from raybench.selection.select import select
from raybench.selection.shallow import without
from raybench.sweep.kinds import REMOVES_BLOCKS

SHOWN = 8  # known names listed in a message, where there are no more


@dataclass(frozen=True)
class PrunedModel:
    """A pruned network and what it costs, as `raybench.prune` returns it. MACs are per image.

    Attributes:
        model: an ordinary module, in the mode (train or eval) of the network that was given.
        speedup: base MACs / MACs.
        macs_base: MACs of the network that was given.
        macs: MACs of `model`.
        params_base: parameters of the network that was given.
        params: parameters of `model`.
        kept: group name -> kept unit indices, ascending.
        reason: why the asked speed-up was missed by more than 0.5 %; None when it was met.
        blocks: modules that were removed whole, by name; empty but for the strategy ``optimal-blocks``.

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> pruned = raybench.prune(net, torch.zeros(1, 8), speedup=2)
        >>> (pruned.speedup, pruned.reason, pruned.model[0].out_features)
        (2.0, None, 8)
    """

    model: nn.Module
    speedup: float
    macs_base: int
    macs: int
    params_base: int
    params: int
    kept: Mapping[str, tuple[int, ...]]
    reason: str | None
    blocks: tuple[str, ...] = ()


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
    loss: Loss | None = None,
    batch_size: int = 64,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
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
        strategy: ``protected-global``, ``global``, ``local``, ``isomorphic``, ``optimal`` or ``optimal-blocks``.
        schedule: ``progressive``, ``iterative`` or ``one-shot``; None: progressive for criteria that need weights
            only, iterative for those that need data.
        calibration: images (n, channels, height, width), normalised as the network expects, and labels (n,) int64;
            needed by criteria that look at activations or gradients.
        loss: (the network's output, labels) -> mean loss, for criteria that look at gradients; labels are then what it
            takes. None: cross-entropy of the class scores: the output, its entry ``logits`` or ``out``, or its only
            tensor.
        batch_size: of the passes over the calibration images.
        keep: modules whose outputs keep their width, by name or glob (``layer1.*.conv2``).
        only: modules outside which nothing shrinks, by name or glob; empty: all may shrink.
        parts: parts of attention models that may shrink, of ``embed``, ``head-dim``, ``heads``, ``mlp``; empty: the
            default.
        round_to: kept channels are multiples of it.
        seed: of criteria that draw random numbers.

    Returns:
        The pruned network with its exact cost.

    Raises:
        UserError: an unknown name, a speed-up of at most 1, missing calibration images, or an output without class
            scores and no `loss`.
        NotSupported: the network's channels can't be followed, or the criterion scores none of them.

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3))
        >>> pruned = raybench.prune(net, torch.zeros(1, 3, 8, 8), speedup=2)
        >>> (pruned.model[0].out_channels, pruned.macs_base, pruned.macs)
        (8, 24768, 12384)
    """
    _check(model, example, speedup, loss, round_to=round_to, batch_size=batch_size, seed=seed)
    method = _criterion(criterion, params)
    if schedule is None:
        schedule = "iterative" if needs_images(method.needs) else "progressive"
    parts = _names("parts", parts, PARTS, "unknown part")
    keep, only = (_names(word, given, (), "") for word, given in (("keep", keep), ("only", only)))
    images = _calibration(method, calibration, loss, batch_size, seed)
    if images is not None:
        _check_images(images.images, example)
    if computes_weights(model):
        model = baked_copy(model)
    scored = copy.deepcopy(model)  # a user's criterion may write into its layers
    with returning_tensors(scored):
        groups = trace(scored, example, prune=parts, protect=keep, only=only)
    differentiated = {"gradients", "sample-gradients"} & set(evidence_kinds(method.needs))
    if differentiated and (loss is None or method.labels == "sampled"):
        return_scores(scored)
    scoring = Scoring(method, scored, images, seed)
    how: dict[str, Any] = {"strategy": strategy, "schedule": schedule, "round_to": round_to}
    if strategy in REMOVES_BLOCKS:
        regroup = partial(_regrouped, example=example, parts=parts, keep=keep, only=only)
        removable = Removable(removable_blocks(scored, example[:1], protect=keep, only=only), regroup)
        if not removable.names:
            raise NotSupported(f"{strategy}: {type(model).__name__} has no removable block")
        cut = select_jointly(scoring, example[:1], groups, [speedup], removable, **how)[speedup]
        model = without(model, cut.blocks)
        groups = regroup(model)
    else:
        cut = select(scoring, example[:1], groups, [speedup], **how)[speedup]
    pruned = copy.deepcopy(model)
    surgery.apply(pruned, groups, cut.kept)
    refit.reconstruct(method, model, pruned, groups, cut.kept, images, stage="surgery")
    return _result(pruned, cut)


def _regrouped(
    model: nn.Module, example: Tensor, parts: tuple[str, ...], keep: Sequence[str], only: Sequence[str]
) -> Groups:
    """The groups of a network from which blocks were removed."""
    keep, only = layers_left(model, keep, only)
    with returning_tensors(model):
        return trace(model, example, prune=parts, protect=keep, only=only)


def _check(model: Any, example: Any, speedup: Any, loss: Any, **whole: Any) -> None:
    """UserError for arguments of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model: found {_kind(model)}, expected a torch.nn.Module, such as a built network")
    if not isinstance(example, Tensor) or example.dim() < 2 or not len(example):
        found = f"a tensor {tuple(example.shape)}" if isinstance(example, Tensor) else _kind(example)
        raise UserError(f"example: found {found}, expected a batch of at least one image as the network takes it")
    if isinstance(speedup, bool) or not isinstance(speedup, int | float) or not math.isfinite(speedup):
        raise UserError(f"speedup: found {speedup!r}, expected a number above 1")
    if not (loss is None or callable(loss)):
        raise UserError(f"loss: found {_kind(loss)}, expected a function of (output, labels)")
    least = {"round_to": 1, "batch_size": 1, "seed": 0}
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least[name]:
            raise UserError(f"{name}: found {value!r}, expected a whole number of at least {least[name]}")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__} {value!r}"[:80]


def _names(argument: str, names: Any, known: Sequence[str], unknown: str) -> tuple[str, ...]:
    """A tuple of names; UserError for an unknown one, and for one string, which is a sequence of letters."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        example = names if names in known or not known else known[-1]
        raise UserError(f"{argument}: found {_kind(names)}, expected a list of names, such as [{example!r}]")
    for name in names:
        if known and name not in known:
            few = f" Known: {', '.join(known)}" if len(known) <= SHOWN else ""
            raise UserError(f"{argument}: {unknown} {name!r}.{nearest(name, known)}{few}")
    return tuple(names)


def _criterion(criterion: str | Importance, params: Mapping[str, Any] | None) -> Importance:
    if isinstance(criterion, Importance):
        if params:
            raise UserError("params: a criterion that is an object already has its parameters; found params as well")
        return criterion
    if not isinstance(criterion, str):
        hint = f"; give an object: {criterion.__name__}()" if isinstance(criterion, type) else ""
        raise UserError(f"criterion: found {_kind(criterion)}, expected a name or an Importance{hint}")
    if criterion in registry.selection.entries():
        raise UserError(f"{criterion} trains the network to select; this function doesn't train: use `raybench prune`")
    if criterion in registry.token.entries():
        raise UserError(f"{criterion} removes tokens; this function removes channels: use `raybench prune`")
    entry, given = registry.importance.entry(criterion), dict(params or {})
    if unknown := sorted(set(given) - {*entry.params, *entry.options}):
        known = ", ".join(sorted(entry.params)) or "none"
        raise UserError(f"{criterion} has no parameter {unknown[0]!r}. Known: {known}")
    if wrong := next((f"{name}: {why}" for name, value in given.items() if (why := entry.misfit(name, value))), None):
        raise UserError(f"{criterion}: {wrong}")
    return criterion_named(criterion, given)


def _calibration(
    method: Importance, given: tuple[Tensor, Tensor] | None, loss: Loss | None, batch_size: int, seed: int
) -> Calibration | None:
    """The images a data-driven criterion looks at; UserError when it needs some and none are given."""
    if given is None:
        if needs_images(method.needs) or method.reconstructs:
            needs = evidence_kinds(method.needs) if needs_images(method.needs) else ("activations",)
            raise UserError(
                f"{type(method).__name__} needs {' and '.join(needs)}: "
                "give calibration=(images, labels), normalised as the network expects them"
            )
        return None
    if not (isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(one, Tensor) for one in given)):
        raise UserError(f"calibration: found {_kind(given)}, expected two tensors: (images, labels)")
    images, labels = given
    if not images.is_floating_point():
        raise UserError(f"calibration: found images of {images.dtype}, expected floats, normalised for the network")
    if loss is None and labels.is_floating_point():
        raise UserError(f"calibration: found labels of {labels.dtype}, expected class numbers (int64)")
    if len(images) != len(labels):
        raise UserError(
            f"calibration: found {counted(len(images), 'image')} and {counted(len(labels), 'label')}; "
            "expected one label an image"
        )
    generator = torch.Generator().manual_seed(seed)
    if loss is None:
        return Calibration(images, labels.long(), batch_size, class_loss, generator)
    return Calibration(images, labels, batch_size, checked(loss), generator)


def _check_images(images: Tensor, example: Tensor) -> None:
    """UserError for calibration images of another kind than the example; their height and width may differ."""
    if images.dim() != example.dim() or (images.dim() in (2, 4) and images.shape[1] != example.shape[1]):
        raise UserError(
            f"calibration: found images {tuple(images.shape)}, expected some like the example {tuple(example.shape)}"
        )


def _result(model: nn.Module, cut: Cut) -> PrunedModel:
    return PrunedModel(
        model,
        cut.speedup,
        cut.macs_base,
        cut.macs,
        cut.params_base,
        cut.params,
        dict(cut.kept),
        cut.reason,
        cut.blocks,
    )
