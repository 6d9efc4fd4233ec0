"""What the overview shows: the best method of each model and speed-up, the boards, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raybench.reports.formats import signed
from raybench.reports.pages.board_pages import BoardPage, Tab
from raybench.reports.pages.content import Content


@dataclass(frozen=True)
class BestCell:
    """The best method of a model at a speed-up."""

    page: str
    method: str
    strategy: str
    final: str
    delta: str
    tied: str
    score: float


@dataclass(frozen=True)
class BestRow:
    """One model under one protocol and recipe: a cell for each speed-up, None where it has none."""

    dataset: str
    model: str
    rules: str  # protocol and recipe, where the model has several; else empty
    cells: tuple[BestCell | None, ...]


def best_rows(boards: Sequence[BoardPage]) -> tuple[list[str], list[BestRow]]:
    """(speed-ups, rows): the best over strategies, by the metric. Figures of two protocols or recipes share no row."""
    amounts: dict[str, float] = {}
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, BestCell]]] = {}
    several = len({page.strategy for page in boards}) > 1
    for page in boards:
        for section in page.sections:
            rules = found.setdefault((page.dataset, page.model), {})
            cells = rules.setdefault((section.protocol, section.recipe), {})
            for tab in section.tabs:
                amounts[tab.name] = _order(tab)
                cell = _cell(page, tab, several)
                if tab.name not in cells or cell.score > cells[tab.name].score:
                    cells[tab.name] = cell
    names = sorted(amounts, key=lambda name: (amounts[name], name))
    rows = [
        BestRow(*key, ", ".join(under) if len(rules) > 1 else "", tuple(cells.get(name) for name in names))
        for key, rules in sorted(found.items())
        for under, cells in sorted(rules.items())
    ]
    return names, rows


def _order(tab: Tab) -> float:
    if tab.board.speedup == "average":
        return 1e9
    asked = next((place, one) for place, one in enumerate(tab.board.at or ()) if one is not None)
    return asked[0] * 1e6 + float(asked[1])


def _cell(page: BoardPage, tab: Tab, several: bool) -> BestCell:
    entry = tab.rows[0].entry
    spread = f" ± {entry.spread:.2f}" if entry.spread is not None else ""
    others = sum(row.mark == "tied" for row in tab.rows)
    decided = tab.rows[0].interval is not None and tab.rows[0].interval.low is not None
    tied = f", {others} tied" if others else ", alone" if decided else ""
    final, strategy = f"{entry.metric_final:.2f}{spread}", page.strategy if several else ""
    return BestCell(page.name, entry.method, strategy, final, signed(entry.delta), tied, entry.metric_final)


@dataclass(frozen=True)
class BoardLine:
    """One board in a list."""

    name: str
    model: str
    dataset: str
    strategy: str
    tabs: str
    methods: int
    best: str


def board_lines(boards: Sequence[BoardPage]) -> list[BoardLine]:
    """Every board as a line."""
    lines = []
    for page in boards:
        tabs = [tab for section in page.sections for tab in section.tabs]
        single = [tab for tab in tabs if tab.board.speedup != "average"]
        names = ", ".join(dict.fromkeys(tab.name for tab in single))
        best = single[-1].rows[0].entry
        methods = len({row.entry.method for tab in single for row in tab.rows})
        shown = f"{best.method} ({best.metric_final:.2f})"
        lines.append(BoardLine(page.name, page.model, page.dataset, page.strategy, names, methods, shown))
    return lines


@dataclass(frozen=True)
class Reason:
    """Why cells have no result."""

    status: str
    count: int
    reason: str
    methods: tuple[str, ...]


def reasons(content: Content) -> list[Reason]:
    """Failed, then skipped cells by reason, the most frequent first."""
    both = (("failed", content.by_speedup.failed), ("skipped", content.by_speedup.skipped))
    return [Reason(status, one.count, one.reason, one.methods) for status, found in both for one in found]
