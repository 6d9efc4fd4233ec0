"""By which rules a result was made: the published ones, ours, or the published ones but for some part.

Published rules are those of PruningBench as far as its code is public: torch-pruning 1.6.1 and its script, whose loop
the protocol `pruningbench` follows. The tables hold one line a method; docs/methods has each difference in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybench.reports.published import PROTOCOL

PUBLISHED, OURS = "published rules", "ours"


@dataclass(frozen=True)
class Rules:
    """What a method does otherwise under the protocol `pruningbench`; empty where it does nothing otherwise."""

    library: tuple[str, ...] = ()  # than the published rules
    authors: str = ""  # than the paper that the method comes from


_PRIVATE = "an implementation of our own (theirs isn't public)"
_ONCE = "gradients of the whole network (theirs: gathered before every step)"
_LAST = "the last sparse epoch (theirs: the best test epoch)"

CRITERIA: Mapping[str, Rules] = {
    "random": Rules(),
    "magnitude-l1": Rules(authors="all layers of a group are scored, not the filter alone"),
    "magnitude-l2": Rules(authors="all layers of a group are scored, not the filter alone"),
    "lamp": Rules(authors="units of a group take the place of the weights of a layer"),
    "bn-scale": Rules(authors="mean of the group's batch norm scales, divided by the group's mean"),
    "fpgm": Rules(("distances of filters (theirs: of squared weights, and of input slices)",), "one selection"),
    "thinet": Rules((_PRIVATE,), "sum over all output channels of a point, not one drawn; one fine-tuning at the end"),
    "cp": Rules((_PRIVATE,), "no intercept, no refitted bias"),
    "hrank": Rules((_PRIVATE,), "ranks are compared between groups; no hand-made shares"),
    "taylor": Rules(("batch norm scales count", _ONCE), "sum of absolute values, not of squares"),
    "obd-c": Rules(
        ("input slices and norm scales count", "scores are shares of a layer's sum", _ONCE), "groups are scored"
    ),
    "obd-hessian": Rules(("mean over all samples (theirs: the last one)", _ONCE), "Fisher diagonal for the Hessian"),
}
REGULARIZERS: Mapping[str, Rules] = {
    "bn-scale": Rules(("only batch norms of prunable channels are penalised", _LAST)),
    "group-lasso": Rules(("all weights of a unit are penalised (theirs: batch norm scales)", _LAST)),
    "group-norm": Rules((_LAST,)),
    "growing-reg": Rules(("batch norm scales are penalised too", _LAST), "the penalty grows on all units by weakness"),
}


def rules(importance: str, regularizer: str | None, protocol: str, elsewhere: Sequence[str] = ()) -> str:
    """`published rules`, `ours`, or `differs in` what criterion and regularizer do otherwise than published.

    `ours`: every result of another protocol than `pruningbench`, and of a method that isn't in the tables.
    `elsewhere`: further differences of the result.
    """
    parts = [CRITERIA.get(importance), REGULARIZERS.get(regularizer) if regularizer else Rules()]
    found = [part for part in parts if part is not None]
    if protocol != PROTOCOL or len(found) < len(parts):
        return OURS
    differences = [*(text for part in found for text in part.library), *elsewhere]
    return f"differs in: {'; '.join(differences)}" if differences else PUBLISHED


def besides_authors(importance: str, regularizer: str | None) -> str | None:
    """What criterion and regularizer do otherwise than the papers they come from; None for nothing."""
    parts = (CRITERIA.get(importance), REGULARIZERS.get(regularizer or ""))
    return "; ".join(part.authors for part in parts if part and part.authors) or None
