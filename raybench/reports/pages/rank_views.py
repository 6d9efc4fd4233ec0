"""The page of ranks: for each protocol, strategy and speed-up the rank intervals, critical differences, all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raybench.errors import counted
from raybench.reports import cells
from raybench.reports.drawing.svg import page_svg
from raybench.reports.pages.content import Content
from raybench.reports.plots.matrix import matrix
from raybench.reports.plots.ranks import critical_picture, ranks
from raybench.reports.statistics.critical_difference import CAVEAT, critical_difference
from raybench.reports.statistics.rank_intervals import rank_intervals
from raybench.reports.statistics.samples import Samples
from raybench.reports.statistics.win_matrix import win_matrix

MOST_METHODS = 40  # of a picture; more can't be read
FEW = 6  # methods whose matrix is readable at half the width, so that a telephone shows it whole


@dataclass(frozen=True)
class ScopeView:
    """One tab."""

    name: str
    about: str
    blocks: str  # what the ranks are over
    ranks: str
    ranks_note: str
    critical: str
    critical_note: str
    matrix: str
    matrix_note: str
    few: bool
    size: int
    rank_rows: tuple[dict[str, Any], ...]  # for the downloads
    pair_rows: tuple[dict[str, Any], ...]


def scope_views(content: Content) -> list[ScopeView]:
    """A tab for each protocol, strategy and speed-up, averages last, with two methods at least."""
    return [_view(name, found) for name, found in _scopes(content) if len(found.methods) > 1]


def _scopes(content: Content) -> Iterator[tuple[str, Samples]]:
    rows = content.rows
    several = rows["protocol"].nunique() > 1
    for (protocol, strategy, speedup), found in cells.scopes(rows):
        yield f"{f'{protocol}, ' if several else ''}{strategy}, {speedup:g}x", found
    if rows["speedup_target"].nunique() > 1:
        for (protocol, strategy), found in cells.average_scopes(rows):
            yield f"{f'{protocol}, ' if several else ''}{strategy}, average", found  # of each model's own speed-ups


def _view(name: str, found: Samples) -> ScopeView:
    blocks = [block.name for block in found.blocks]
    over = blocks[0] if len(blocks) == 1 else f"{len(blocks)} pairs of dataset and model"
    left_out = f" Left out, since a model lacks them: {', '.join(found.left_out)}." if found.left_out else ""
    listed = "" if len(blocks) == 1 else f": {', '.join(blocks)}"
    intervals = rank_intervals(found)
    critical = critical_difference(found)
    pairs = win_matrix(found)
    tied = counted(len(intervals.tied), "method is", "methods are")
    tied_text = f"{tied} tied for the best (green)" if intervals.tied else "No interval can be given"
    drawable, few = len(found.methods) <= MOST_METHODS, len(found.methods) <= FEW
    p = f"Friedman's test that all are alike: p = {critical.p:.2g}. " if critical.p is not None else ""
    return ScopeView(
        name,
        f"{counted(len(found.methods), 'method')} on {over}{listed}.{left_out}",
        over,
        page_svg(ranks(intervals, f"Ranks, {name}", width=340)),
        f"{tied_text}. {_sentence(intervals.reason)}Means in percent on the right.",
        page_svg(critical_picture(critical, f"Critical differences, {name}")) if drawable and critical.ranks else "",
        f"{p}{_sentence(critical.reason)}{CAVEAT}",
        page_svg(matrix(pairs, f"All pairs, {name}", width=460 if few else 900)) if drawable else "",
        f"{_sentence(f'No p-values: {pairs.reason}' if pairs.reason else None)}Differences within "
        f"±{pairs.equivalent:g} points are neither won nor lost.",
        few,
        len(found.blocks),
        tuple({"scope": name, "over": over, **asdict(one), "tied": one.tied} for one in intervals.methods),
        tuple({"scope": name, "over": over, "units": pairs.units, **asdict(one)} for one in pairs.pairs),
    )


def _sentence(reason: str | None) -> str:
    return f"{reason[0].upper()}{reason[1:]}. " if reason else ""
