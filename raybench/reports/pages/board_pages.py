"""Pages of boards: one for each dataset, model and strategy, with a tab for each speed-up and the average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from raybench.reports.cells import BOARD
from raybench.reports.drawing.svg import page_svg
from raybench.reports.leaderboard import Board, Ranked
from raybench.reports.pages.content import Content
from raybench.reports.pages.names import slug
from raybench.reports.plots.pareto import ParetoPoint, gain, pareto
from raybench.reports.statistics.intervals import Difference, paired
from raybench.reports.statistics.rank_intervals import RankedMethod, RankIntervals, rank_intervals
from raybench.reports.statistics.samples import samples
from raybench.sweep.target import ASKED

Seeds = Mapping[tuple[int, int], float]
BAR = 72  # pixels: width of the bar of a difference
SIZE = (310, 240)  # of a plot: three fit beside each other, and one on a telephone is readable
Amount = tuple[float | None, ...] | None  # the columns ASKED; None: the average


@dataclass(frozen=True)
class RowView:
    """One method in a table."""

    entry: Ranked
    interval: RankedMethod | None
    behind: Difference | None  # the best minus this one, on the same seeds; None for the best
    trials: tuple[tuple[int, str], ...]  # (seed, trial id)
    alone: bool = False  # no other method is in the table

    @property
    def mark(self) -> str:
        """Whether the method is best, tied with the best or behind it; empty where it is alone or seeds are too few."""
        if self.behind is None:
            return "" if self.alone else "best"
        if self.interval is None or self.interval.tied is None:
            return ""
        return "tied" if self.interval.tied else "behind"


@dataclass(frozen=True)
class Tab:
    """One ranking: an asked amount or the average."""

    name: str
    board: Board
    rows: tuple[RowView, ...]
    intervals: RankIntervals

    @property
    def ranges(self) -> bool:
        """Whether the seeds carry an interval of some rank."""
        return any(row.interval is not None and row.interval.low is not None for row in self.rows)

    @property
    def spreads(self) -> str:
        """What stands behind a distance to the best: its 95 % interval, two seeds' own distances, or nothing."""
        behind = [row.behind for row in self.rows if row.behind is not None]
        if any(one.low is not None for one in behind):
            return "points, 95 %"
        return "points (each seed)" if any(len(one.points) == 2 for one in behind) else "points"

    @property
    def regularized(self) -> bool:
        """Whether some method trains with a regularizer."""
        return any(row.entry.regularizer for row in self.rows)

    @property
    def reach(self) -> float:
        """Points behind the best that the bars show: three times the median, so that near ones look different."""
        behind = sorted(row.behind.mean for row in self.rows if row.behind is not None)
        return max(3 * behind[len(behind) // 2], 1.0) if behind else 1.0


@dataclass(frozen=True)
class Section:
    """The rankings under one protocol and recipe."""

    protocol: str
    recipe: str
    tabs: tuple[Tab, ...]
    plots: tuple[str, ...]  # SVG
    names: Mapping[str, str]  # method -> colour, of the plots
    differs: str = ""  # in what the recipe differs from others of its name


@dataclass(frozen=True)
class BoardPage:
    """All rankings of a dataset, model and strategy."""

    dataset: str
    model: str
    strategy: str
    sections: tuple[Section, ...]

    @property
    def name(self) -> str:
        """The page's name in addresses."""
        return slug("board", self.dataset, self.model, self.strategy)

    @property
    def title(self) -> str:
        """What the page ranks."""
        return f"{self.model} on {self.dataset}, {self.strategy}"


def board_pages(content: Content) -> list[BoardPage]:
    """Every page, sorted by dataset, model and strategy."""
    metrics, trials = _by_seed(content.rows)
    tabs: dict[tuple, list[Tab]] = {}
    for board in (*content.by_speedup.boards, *content.average.boards):
        key = (board.dataset, board.model, board.protocol, board.recipe, board.strategy)
        many = key in tabs and len(tabs[key]) > 1
        if board.speedup == "average" and not many:
            continue  # the average over one speed-up is that speed-up
        tabs.setdefault(key, []).append(_tab(board, metrics[key].get(board.at, {}), trials[key].get(board.at, {})))
    pages: dict[tuple[str, str, str], list[Section]] = {}
    for (dataset, model, protocol, recipe, strategy), own in sorted(tabs.items(), key=lambda pair: pair[0]):
        section = replace(_section(protocol, recipe, own), differs=content.recipes.get(recipe, ""))
        pages.setdefault((dataset, model, strategy), []).append(section)
    return [BoardPage(*key, tuple(sections)) for key, sections in sorted(pages.items())]


Metrics = dict[tuple, dict[Amount, dict[str, dict[tuple[int, int], float]]]]
TrialIds = dict[tuple, dict[Amount, dict[str, list[tuple[int, str]]]]]


def _by_seed(rows: pd.DataFrame) -> tuple[Metrics, TrialIds]:
    """Metrics and trial ids of every board, by asked amount, method and seed; the average is under None."""
    metrics: Metrics = {}
    trials: TrialIds = {}
    columns = (*BOARD, *ASKED, "label", "seed", "base_seed", "metric_final", "trial_id")
    for *place, label, seed, base, metric, trial_id in zip(*(rows[n] for n in columns), strict=True):
        key, at = tuple(place[: len(BOARD)]), tuple(map(_number, place[len(BOARD) :]))
        metrics.setdefault(key, {}).setdefault(at, {}).setdefault(label, {})[(int(seed), int(base))] = float(metric)
        trials.setdefault(key, {}).setdefault(at, {}).setdefault(label, []).append((int(seed), trial_id))
    for by_amount in metrics.values():
        by_amount[None] = _averages([found for at, found in by_amount.items() if at and at[0] is not None])
    return metrics, trials


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _averages(found: Sequence[Mapping[str, Seeds]]) -> dict[str, dict[tuple[int, int], float]]:
    """Means over all speed-ups, of methods and seeds that have every one."""
    labels = set.intersection(*(set(one) for one in found)) if found else set()
    means = {}
    for label in labels:
        seeds = set.intersection(*(set(one[label]) for one in found))
        if seeds:
            means[label] = {seed: sum(one[label][seed] for one in found) / len(found) for seed in seeds}
    return means


def _tab(board: Board, by_label: Mapping[str, Seeds], trials: Mapping[str, Sequence[tuple[int, str]]]) -> Tab:
    own = {entry.method: dict(by_label[entry.method]) for entry in board.entries if entry.method in by_label}
    found = rank_intervals(samples({(board.dataset, board.model): own} if own else {}))
    intervals = {one.method: one for one in found.methods}
    best = own.get(board.entries[0].method, {})
    rows = [
        RowView(
            entry,
            intervals.get(entry.method),
            None if place == 0 else _behind(best, own.get(entry.method, {})),
            tuple(sorted(trials.get(entry.method, ()))),
            alone=len(board.entries) == 1,
        )
        for place, entry in enumerate(board.entries)
    ]
    return Tab(board.target, board, tuple(rows), found)


def _behind(best: Seeds, own: Seeds) -> Difference:
    common = sorted(set(best) & set(own))
    if not common:
        return Difference((), 0.0, None, None, None, "no common seed")
    return paired([best[seed] for seed in common], [own[seed] for seed in common])


def _section(protocol: str, recipe: str, tabs: Sequence[Tab]) -> Section:
    single = [tab for tab in tabs if tab.board.speedup != "average"]
    order = sorted({entry.method for tab in single for entry in tab.board.entries})
    drawings = [
        pareto(points, goal, f"{tabs[0].board.metric_name}, %", f"{goal} of every method", order=order, size=SIZE)
        for goal in ("speedup", "latency", "parameters")
        if len(points := list(_points(single, goal))) > 1
    ]
    names = drawings[0].names if drawings else {}
    return Section(protocol, recipe, tuple(tabs), tuple(page_svg(one) for one in drawings), names)


def _points(tabs: Sequence[Tab], goal: str) -> Iterator[ParetoPoint]:
    for tab in tabs:
        for entry in tab.board.entries:
            x = gain(tab.board, entry, goal)
            if x is not None:
                yield ParetoPoint(entry.method, x, entry.metric_final, point_tip(tab.name, entry))


def point_tip(name: str, entry: Ranked) -> str:
    """The text shown at a point, after the name of its method."""
    spread = f" ± {entry.spread:.2f}" if entry.spread is not None else ""
    latency = f", {entry.latency_ms:.3g} ms" if entry.latency_ms is not None else ""
    kept = f"{entry.speedup:.2f}x, {100 * entry.params_kept:.1f} % of parameters"
    return f"{name}: {entry.metric_final:.2f}{spread} % (n = {entry.n})\n{kept}{latency}"


def difference_bar(row: RowView, reach: float) -> dict[str, Any] | None:
    """Places, of BAR pixels, of the interval of a method's difference to the best; zero is at three quarters."""
    if row.behind is None or not row.behind.points:
        return None
    low, high = row.behind.low, row.behind.high
    ends = (row.behind.mean, row.behind.mean) if low is None or high is None else (low, high)

    def place(value: float) -> float:
        return round(0.75 * BAR * (1 - min(max(value, -reach / 3), reach) / reach))

    return {"from": place(ends[1]), "to": place(ends[0]), "at": place(row.behind.mean)}
