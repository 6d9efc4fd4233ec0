"""Model and example input -> `Groups`: which channels of which layers can only be removed together.

torch-pruning's dependency graph is asked first (`by_graph`); networks that it can't hold are followed operation by
operation (`follow`). Either way the result is checked before anything is cut: channels must arrive where the groups
say. Groups hold no module, tensor or library object: everything after tracing works on arrays and names.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from raybench.errors import NotSupported, RaybenchWarning, UserError, nearest
from raybench.groups.by_graph import NAMED, by_graph
from raybench.groups.dependency_graph import MAX_SECONDS
from raybench.groups.first_run import check_runs, raise_if_out_of_memory, run_once
from raybench.groups.follow import Found, candidates, follow
from raybench.groups.members import Layers
from raybench.groups.proof import disproved
from raybench.groups.records import Groups
from raybench.groups.whole import by_reason, share_of, warning_of
from raybench.sweep.trial import DEFAULT_PARTS

LITTLE = 0.6  # share of the MACs below which what stays whole is looked at group by group
LATE = 15.0  # CPU seconds after which a network of which nothing was found is refused
PARTS = ("embed", "head-dim", "heads", "mlp")


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    prune: tuple[str, ...] = (),
    classes: int | None = None,
    protect: Sequence[str] = (),
    only: Sequence[str] = (),
    max_seconds: float = MAX_SECONDS,
) -> Groups:
    """Find every prunable group of `model`, in the order of `named_modules`. The model isn't changed.

    Args:
        model: the network.
        example: one batch as the model takes it, (n, channels, height, width).
        prune: which parts of attention models may shrink, of embed, head-dim, heads, mlp; empty: `DEFAULT_PARTS`.
            Models without attention have none of these.
        classes: how many outputs the classifier must have; None: any number.
        protect: modules whose outputs keep their width, by qualified name or glob, besides those in the model's
            `protected_layers` and the layers that produce its output.
        only: modules outside which nothing shrinks, by qualified name or glob; empty: all.
        max_seconds: time limit of the tracing.

    Returns:
        The groups. What can't be followed or cut keeps its width, with one warning that says why.

    Raises:
        NotSupported: no group is left, or tracing exceeds its limits; names model and module.
        UserError: an unknown part or module, or a classifier with another number of outputs.
    """
    parts = _check_parts(prune)
    layers = Layers.of(model)
    protected = _protected(layers, protect, only)
    check_runs(model, example, _own(layers))
    started = time.thread_time()
    try:
        groups = by_graph(model, example, layers, parts, classes, protected, max_seconds)
        groups = replace(groups, share=share_of(layers, groups))  # refuses units that own unequal numbers of channels
    except UserError:
        raise
    except Exception:  # refused, or the library fails: it may raise anything
        layers = Layers.of(model)
        groups = _followed(model, example, layers, parts, protected, max_seconds, started)
    if text := warning_of(type(model).__name__, layers, groups):
        warnings.warn(text, RaybenchWarning, stacklevel=2)
    return groups


def _own(layers: Layers) -> set[str]:
    """Names of the modules that the network's author keeps."""
    return set(layers.resolve(getattr(layers.model, "protected_layers", ())))


def _protected(layers: Layers, protect: Sequence[str], only: Sequence[str]) -> set[str]:
    """Names of the modules that keep their width."""
    found = layers.resolve(protect, "keep") | _own(layers)
    if only:
        inside = layers.resolve(only, "only")
        found |= {name for name, _ in layers.roots() if name not in inside}
    return found


def _followed(
    model: nn.Module,
    example: Tensor,
    layers: Layers,
    parts: tuple[str, ...],
    protected: set[str],
    max_seconds: float,
    started: float,
) -> Groups:
    """The groups by following every operation, without those that a numeric trial disproves.

    Widths that are numbers in the code are looked for in two ways: by class of module, and group by group where that
    leaves little.
    """
    with layers.note_shapes():
        run_once(model, example)
    best: Groups | None = None
    why, name = "", type(model).__name__
    for way in (follow, candidates):
        if way is candidates and best is None and time.thread_time() - started > LATE:
            break  # a person waits for the refusal
        try:
            found = way(model, example, parts, frozenset(protected), max_seconds)
        except NotSupported as error:
            why = why or str(error)
            continue
        except Exception as error:  # the network ran, so what fails is following it
            raise_if_out_of_memory(error)
            why = why or f"can't group {name}: its operations can't be followed ({type(error).__name__})"
            continue
        groups = _proven(model, example, found, protected)
        if len(groups):
            groups = replace(groups, share=share_of(layers, groups))
            best = groups if best is None or groups.share > best.share else best
        left = next((reason for reason in groups.whole.values() if not reason.startswith("it makes")), "")
        why = why or f"{name} has no group of channels that can be pruned" + (f": {left}" if left else "")
        if best is not None and best.share > LITTLE:
            break
    if best is None:
        raise NotSupported(why)
    layers.whole = by_reason({name: reason for name, reason in best.whole.items() if name not in protected})
    return best


def _proven(model: nn.Module, example: Tensor, found: Found, protected: set[str]) -> Groups:
    """The groups of `found` that the numeric trial leaves, with the reason for every layer that stays whole."""
    wrong = disproved(model, example, found.groups, found.choices)
    left = tuple(group for group in found.groups if group.name not in wrong)
    whole = {name: NAMED if name in protected else why for name, why in found.whole.items()}
    for group in found.groups:
        if group.name in wrong:
            whole |= {m.layer: wrong[group.name] for m in group.members if m.side == "out" and m.kind != "norm"}
    return Groups(left, tuple(whole), whole)


def _check_parts(prune: Sequence[str]) -> tuple[str, ...]:
    for part in prune:
        if part not in PARTS:
            raise UserError(f"prune: unknown part {part!r}.{nearest(part, PARTS)} Known: {', '.join(PARTS)}")
    return tuple(prune) or DEFAULT_PARTS
