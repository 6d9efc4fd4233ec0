"""Pages of methods: what the code says of them, their source, where they win and lose, and what they cost."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from raybench import registry
from raybench.catalogue import Entry
from raybench.reports.pages.board_pages import BoardPage, RowView, Tab
from raybench.reports.pages.content import Content
from raybench.reports.pages.names import slug
from raybench.reports.published import published
from raybench.reports.rules import besides_authors


@dataclass(frozen=True)
class Part:
    """One method of a label, as its file describes it; `kind` as people call it, such as trained selection."""

    kind: str
    name: str
    text: str  # docstring of the class: formula, and what differs from the source
    paper: str
    needs: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """One place of the method: a page, a ranking on it, and the row."""

    page: BoardPage
    tab: Tab
    row: RowView

    @property
    def share(self) -> float:
        """Place among the methods of the ranking: 0 the best, 1 the last."""
        return (self.row.entry.rank - 1) / max(len(self.tab.rows) - 1, 1)


@dataclass(frozen=True)
class MethodPage:
    """One method of the store."""

    method: str
    parts: tuple[Part, ...]
    standings: tuple[Standing, ...]  # of single speed-ups, the best places first
    step_time: float | None  # median seconds
    step_factor: float | None  # times the cheapest method of the same boards
    reg_time: float | None
    published_rank: float | None  # mean over PruningBench's tables
    published_tables: int
    besides: str | None  # what ours does otherwise than the paper

    @property
    def name(self) -> str:
        """The page's name in addresses."""
        return slug("method", self.method)

    @property
    def mean_share(self) -> float:
        """Mean place, 0 the best."""
        return mean(one.share for one in self.ranked) if self.ranked else 1.0

    @property
    def ranked(self) -> tuple[Standing, ...]:
        """Its places in rankings of two methods at least: alone it is neither the best nor the last."""
        return tuple(one for one in self.standings if len(one.tab.rows) > 1)

    @property
    def several(self) -> bool:
        """Whether its places are under several protocols or recipes."""
        return len({(one.tab.board.protocol, one.tab.board.recipe) for one in self.standings}) > 1

    def count(self, mark: str) -> int:
        """In how many of these rankings the method stands so to the best."""
        return sum(one.row.mark == mark for one in self.ranked)


def method_pages(content: Content, boards: Sequence[BoardPage]) -> list[MethodPage]:
    """A page for each method, the one with the best mean place first."""
    places: dict[str, list[Standing]] = {}
    tabs = ((page, tab) for page in boards for section in page.sections for tab in section.tabs)
    for page, tab in tabs:
        for row in tab.rows if tab.board.speedup != "average" else ():
            places.setdefault(row.entry.name, []).append(Standing(page, tab, row))
    cheapest = _cheapest(content)
    pages = [_page(method, found, content, cheapest) for method, found in places.items()]
    return sorted(pages, key=lambda page: (page.mean_share, page.method))


def _page(method: str, found: Sequence[Standing], content: Content, cheapest: Mapping[str, float]) -> MethodPage:
    entry = found[0].row.entry
    rows = content.rows[content.rows["method"] == method]
    steps, regs = rows["step_time_s"].dropna(), rows["reg_time_s"].dropna()
    keys = rows.loc[steps.index, "model"]
    factors = [step / cheapest[model] for step, model in zip(steps, keys, strict=True) if cheapest.get(model)]
    printed = [row["rank"] for row in published() if row["method"] == method]
    parts = [_part(registry.CHOICE, entry.importance)]
    parts += [_part(registry.regularizer, entry.regularizer)] if entry.regularizer else []
    return MethodPage(
        method,
        tuple(parts),
        tuple(sorted(found, key=lambda one: (one.share, one.page.title, one.tab.name))),
        median(steps) if len(steps) else None,
        median(factors) if factors else None,
        median(regs) if len(regs) else None,
        mean(printed) if printed else None,
        len(printed),
        besides_authors(entry.importance, entry.regularizer),
    )


def _cheapest(content: Content) -> dict[str, float]:
    """Median step time of the cheapest method of each model."""
    medians = content.rows.groupby(["model", "importance"])["step_time_s"].median().dropna()
    return {str(model): float(value) for model, value in medians.groupby(level="model").min().items()}


def _part(names: registry.Registry | registry.Either, name: str) -> Part:
    entry = names.entries().get(name)
    if entry is None:
        return Part(names.noun, name, "A method of a plug-in that is not loaded here.", "", "", {})
    needs = str(entry.facts.get("needs", "weights")) if names.kind == "importance" else "training"
    return Part(entry.noun, name, _docstring(entry), str(entry.facts.get("paper") or ""), needs, dict(entry.params))


def _docstring(entry: Entry) -> str:
    tree = ast.parse(entry.file.read_bytes())
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == entry.attribute]
    text = (ast.get_docstring(classes[0]) if classes else None) or entry.summary
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
