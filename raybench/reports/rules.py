"""By which rules a result was made: the published ones, ours, or the published ones but for some part.

Published rules are those of PruningBench as far as its code is public: torch-pruning 1.6.1 and its script, whose loop
the protocol `pruningbench` follows. The tables hold one line a method; docs/methods has each difference in full. A
difference that depends on a parameter is listed when the trial has another value than the published one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raybench import registry
from raybench.reports.published import PROTOCOL

PUBLISHED, OURS = "published rules", "ours"


@dataclass(frozen=True)
class Unless:
    """A difference unless a parameter has the published value."""

    text: str
    parameter: str  # as a sweep has it: params.NAME or regularizer_params.NAME
    published: str | bool


@dataclass(frozen=True)
class Rules:
    """What a method does otherwise under the protocol `pruningbench`; empty where it does nothing otherwise."""

    library: tuple[str | Unless, ...] = ()  # than the published rules
    authors: str = ""  # than the paper that the method comes from


_PRIVATE = "an implementation of our own (theirs isn't public)"

CRITERIA: Mapping[str, Rules] = {
    "random": Rules(),
    "magnitude-l1": Rules(authors="all layers of a group are scored, not the filter alone"),
    "magnitude-l2": Rules(
        (Unless("scores are divided by the group's maximum (theirs: by its mean)", "params.normalize", "mean"),),
        "all layers of a group are scored, not the filter alone",
    ),
    "lamp": Rules(authors="units of a group take the place of the weights of a layer"),
    "bn-scale": Rules(authors="mean of the group's batch norm scales, divided by the group's mean"),
    "small": Rules(authors="a network of the family, not one of the pruned widths"),
    "uniform": Rules(authors="the order within a group is drawn"),
    "lookahead": Rules(
        authors="a filter's weights are added up (authors: single weights), and compared between groups"
    ),
    "fpgm": Rules(("distances of filters (theirs: of squared weights, and of input slices)",), "one selection"),
    "thinet": Rules((_PRIVATE,), "sum over all output channels of a point, not one drawn; one fine-tuning at the end"),
    "cp": Rules((_PRIVATE,), "no intercept, no refitted bias"),
    "chip": Rules(authors="scores are compared between groups; no hand-made shares; maps aren't rounded"),
    "hrank": Rules((_PRIVATE,), "ranks are compared between groups; no hand-made shares"),
    "taylor": Rules(("batch norm scales count",), "sum of absolute values, not of squares"),
    "obd-c": Rules(
        (
            Unless("input slices and norm scales count", "params.sides", "out"),
            Unless("scores are shares of a layer's sum", "params.shares", False),
        ),
        "shares of a layer are averaged over a group",
    ),
    "obd-hessian": Rules(("mean over all samples (theirs: the last one)",), "Fisher diagonal for the Hessian"),
}
_TRAINED = "channels are chosen while the network trains, not in steps by a score"
SELECTIONS: Mapping[str, Rules] = {
    "resrep": Rules((_TRAINED,), "masked rows go (authors: rows under 1e-5); the folded network is fine-tuned"),
    "greg-1": Rules((_TRAINED,), "a group has the mean over its layers (authors: each layer its own picked filters)"),
    "tpp": Rules((_TRAINED,), "picked filters go at once (authors: layer by layer); no Gram matrix of grouped layers"),
    "nppm": Rules(
        (_TRAINED,), "every group has gates (authors: the middle of a block); the memory is drawn from evenly"
    ),
}
_TOKENS = "tokens are removed, not channels"
TOKENS: Mapping[str, Rules] = {
    "tome": Rules((_TOKENS,), "left tokens keep their order"),
    "dynamicvit": Rules(
        (_TOKENS,), "other learning rates; gradients of dropped tokens; predictors count in the speed-up"
    ),
    "cp-vit": Rules((_TOKENS,), "patches are removed (public code: set to zero); heads aren't pruned"),
}
REGULARIZERS: Mapping[str, Rules] = {
    "bn-scale": Rules(("only batch norms of prunable channels are penalised",)),
    "group-lasso": Rules(
        ("all weights of a unit are penalised (torch-pruning: batch norm scales; theirs isn't public)",),
    ),
    "bn-group-lasso": Rules((), "the group lasso of batch norm scales alone"),
    "group-norm": Rules(
        (Unless("scales of norms other than batch norms are penalised too", "regularizer_params.layer_norm", False),)
    ),
    "growing-reg": Rules(
        (Unless("norm scales are penalised too", "regularizer_params.norm_scales", False),),
        "the penalty grows on all units by weakness",
    ),
}
_AFTER_GROUP_NORM = replace(
    CRITERIA["magnitude-l2"],
    library=(Unless("scores are divided by the group's mean (theirs: by its maximum)", "params.normalize", "max"),),
)
_FIRST = {**CRITERIA, **SELECTIONS, **TOKENS}  # what stands first in a method
# (importance, regularizer, dataset) -> rules of the criterion there, where the published script has others
CRITERIA_OF_PAIRS: Mapping[tuple[str, str | None, str | None], Rules] = {
    ("magnitude-l2", "group-norm", dataset): _AFTER_GROUP_NORM for dataset in ("cifar10", "cifar100")
}


def rules(
    importance: str,
    regularizer: str | None,
    protocol: str,
    elsewhere: Sequence[str] = (),
    trial: Mapping[str, Any] | None = None,
) -> str:
    """`published rules`, `ours`, or `differs in` what a method does otherwise than published.

    `ours`: every result of another protocol than `pruningbench`, and of a method that isn't in the tables.

    Args:
        importance: name of the criterion, trained selection or token reducer.
        regularizer: name of the regularizer, None without one.
        protocol: that the result was made by.
        elsewhere: further differences of the result.
        trial: the resolved trial of one of its cells, as in the column `trial`; None: every parameter has its default.

    Returns:
        One line.
    """
    trial = trial or {}
    own = CRITERIA_OF_PAIRS.get((importance, regularizer, trial.get("dataset")), _FIRST.get(importance))
    parts = [own, REGULARIZERS.get(regularizer) if regularizer else Rules()]
    found = [part for part in parts if part is not None]
    if protocol != PROTOCOL or len(found) < len(parts):
        return OURS
    values = _parameters(importance, regularizer, trial)
    of_method = [text for part in found for difference in part.library if (text := _difference(difference, values))]
    differences = [*of_method, *elsewhere, *_outdated(importance, regularizer, trial)]
    return f"differs in: {'; '.join(differences)}" if differences else PUBLISHED


def besides_authors(importance: str, regularizer: str | None) -> str | None:
    """What the parts of a method do otherwise than the papers they come from; None for nothing."""
    parts = (_FIRST.get(importance), REGULARIZERS.get(regularizer or ""))
    return "; ".join(part.authors for part in parts if part and part.authors) or None


def _difference(difference: str | Unless, values: Mapping[str, Any]) -> str | None:
    if isinstance(difference, str):
        return difference
    return None if values[difference.parameter] == difference.published else difference.text


def _parameters(importance: str, regularizer: str | None, trial: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the method, by its name in a sweep."""
    values: dict[str, Any] = {}
    methods = (("params", registry.CHOICE, importance), ("regularizer_params", registry.regularizer, regularizer))
    for prefix, names, name in methods:
        if name:
            given = (trial.get(names.kind) or {}).get("params", {})
            values |= {f"{prefix}.{key}": value for key, value in (names.entry(name).params | given).items()}
    return values


def _outdated(importance: str, regularizer: str | None, trial: Mapping[str, Any]) -> list[str]:
    """A line for each part of the method that was an earlier version of ours, of which the tables don't speak."""
    lines = []
    for names, name in ((registry.CHOICE, importance), (registry.regularizer, regularizer)):
        made = (trial.get(names.kind) or {}).get("version")
        now = names.entry(name).facts.get("version", 1) if name else None
        if made and made != now:
            lines.append(f"made by version {made} of {name} (now: {now})")
    return lines
