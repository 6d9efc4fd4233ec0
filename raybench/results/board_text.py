"""A leaderboard as text: aligned for a terminal of any width, or Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from raybench.results.labels import amount
from raybench.results.leaderboard import Board, Entry, Leaderboard

NOT_MEASURED = "n/m"


@dataclass(frozen=True)
class Shown:
    """One printed column. When the terminal is narrow those with the highest `leaves` go first, those with 0 never."""

    title: str
    unit: str
    text: Callable[[Entry], str]
    leaves: int = 0
    left: bool = False


def _timing(value: float | None, entry: Entry) -> str:
    if value is None:
        return NOT_MEASURED if entry.timing_reason else "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _final(entry: Entry) -> str:
    return f"{entry.metric_final:.2f}" + (f"±{entry.spread:.2f}" if entry.spread is not None else "")


def _count(value: float) -> str:
    """A count of parameters or MACs with three digits: 270k, 0.27M stay comparable within a column in M."""
    return f"{value / 1e6:.3f}" if value < 1e7 else f"{value / 1e6:.1f}"


def _reg_time(entry: Entry) -> str:
    return _timing(entry.reg_time_s, entry) if entry.regularizer else "-"


COLUMNS = (
    Shown("#", "", lambda e: str(e.rank)),
    Shown("method", "", lambda e: e.method, left=True),
    Shown("strategy", "", lambda e: e.strategy, left=True),
    Shown("base", "%", lambda e: f"{e.metric_base:.2f}", leaves=2),
    Shown("pruned", "%", lambda e: f"{e.metric_pruned:.2f}"),
    Shown("final", "%", _final),
    Shown("n", "", lambda e: str(e.n), leaves=3),
    Shown("Δ", "pts", lambda e: f"{e.delta:+.2f}"),
    Shown("params", "M", lambda e: _count(e.params)),
    Shown("kept", "%", lambda e: f"{100 * e.params_kept:.1f}", leaves=4),
    Shown("MACs", "M", lambda e: _count(e.macs), leaves=5),
    Shown("speedup", "x", lambda e: f"{e.speedup:.2f}{'*' if e.reason else ''}"),
    Shown("latency", "ms", lambda e: _timing(e.latency_ms, e), leaves=1),
    Shown("step", "s", lambda e: _timing(e.step_time_s, e)),
    Shown("reg", "s", _reg_time),
)


def as_text(leaderboard: Leaderboard, width: int) -> str:
    """Every board within `width` characters, its notes below it, conditions above and losses at the end."""
    blocks = ["\n".join(leaderboard.conditions)]
    for board in leaderboard.boards:
        lines = _aligned(board, width)
        title = wrap(_title(board, lines.said), width)
        hidden = [f"not shown at this width: {', '.join(lines.hidden)}"] if lines.hidden else []
        notes = [line for note in (*_notes(board), *hidden) for line in wrap(note, width, subsequent_indent="  ")]
        blocks.append("\n".join([*title, *lines.text, *notes]))
    return "\n\n".join([*blocks, *filter(None, ["\n".join(_losses(leaderboard))])])


def as_markdown(leaderboard: Leaderboard) -> str:
    """Every board as a GitHub table with all columns."""
    blocks = ["\n".join(f"- {line}" for line in leaderboard.conditions)]
    for board in leaderboard.boards:
        shown = _columns(board)
        heads = [f"{c.title} ({c.unit})" if c.unit else c.title for c in shown]
        rules = [":--" if c.left else "--:" for c in shown]
        rows = [[c.text(entry) for c in shown] for entry in board.entries]
        table = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
        notes = [f"- {note}" for note in _notes(board)]
        blocks.append("\n".join([f"### {_title(board)}", "", *table, *([""] if notes else []), *notes]))
    lost = [f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in _losses(leaderboard)]
    return "\n\n".join([*blocks, *filter(None, ["\n".join(lost)])])


@dataclass(frozen=True)
class _Fitted:
    text: tuple[str, ...]
    said: str  # values that moved from a dropped column to the title
    hidden: tuple[str, ...]  # titles of dropped columns whose values differ


def _aligned(board: Board, width: int) -> _Fitted:
    shown, said, hidden = list(_columns(board)), [], []
    while True:
        cells = [[c.title for c in shown], [c.unit for c in shown]]
        cells += [[c.text(entry) for c in shown] for entry in board.entries]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        droppable = sorted((c for c in shown if c.leaves), key=_leaves_first(board))
        if sum(widths) + 2 * (len(shown) - 1) <= width or not droppable:
            break
        shown.remove(droppable[0])
        values = {droppable[0].text(entry) for entry in board.entries}
        if len(values) == 1:
            said.append(f"{droppable[0].title} {values.pop()} {droppable[0].unit}".strip())
        else:
            hidden.append(droppable[0].title)
    gap = "  " if sum(widths) + 2 * (len(shown) - 1) <= width else " "
    lines = (gap.join(_pad(t, w, c.left) for t, w, c in zip(row, widths, shown, strict=True)).rstrip() for row in cells)
    return _Fitted(tuple(lines), ", ".join(said), tuple(hidden))


def _leaves_first(board: Board) -> Callable[[Shown], tuple[bool, int]]:
    """Columns with one value leave first, since the title can say it; then by their order."""
    return lambda column: (len({column.text(entry) for entry in board.entries}) > 1, -column.leaves)


def _columns(board: Board) -> Sequence[Shown]:
    return [c for c in COLUMNS if c.title != "strategy" or board.strategy is None]


def _pad(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _title(board: Board, said: str = "") -> str:
    speedup = "average over speed-ups" if board.speedup == "average" else amount(board.speedup, board.ratio)
    tracks = {"criteria": "criteria", "regularizers": "regularizers", "all": "criteria and regularizers"}
    scope = board.strategy or "all strategies"
    where = f"{board.model} on {board.dataset}, {speedup}, {scope}: {tracks[board.track]} by {board.metric_name}"
    return f"{where} ({', '.join(filter(None, [f'protocol {board.protocol}', f'recipe {board.recipe}', said]))})"


def _notes(board: Board) -> Iterable[str]:
    """What a reader must know of this table before trusting it."""
    if len(board.schedules) > 1:
        mixed = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in board.schedules.items())
        yield f"schedules differ: {mixed}"
    missed: dict[str, list[str]] = {}
    untimed: dict[str, list[str]] = {}
    for entry in board.entries:
        if entry.reason:
            missed.setdefault(entry.reason, []).append(entry.method)
        if entry.timing_reason:
            untimed.setdefault(entry.timing_reason, []).append(entry.method)
    yield from (
        f"* {', '.join(methods)}: misses the speed-up by more than 0.5 %: {why}" for why, methods in missed.items()
    )
    yield from (f"{NOT_MEASURED}: {', '.join(methods)}: not measured: {why}" for why, methods in untimed.items())
    if board.left_out:
        yield f"not in the average: {', '.join(board.left_out)}"
    if board.strategy is None:
        yield from _strategies(board)


def _strategies(board: Board) -> Iterable[str]:
    """Mean final metric of each strategy over the methods that were run with all of them."""
    names = sorted({entry.strategy for entry in board.entries})
    finals: dict[str, dict[str, float]] = {}
    for entry in board.entries:
        finals.setdefault(entry.method, {})[entry.strategy] = entry.metric_final
    whole = [by for by in finals.values() if len(by) == len(names)]
    if whole and len(names) > 1:
        means = {name: sum(by[name] for by in whole) / len(whole) for name in names}
        ranked = sorted(names, key=lambda name: (-means[name], name))
        told = ", ".join(f"{name} {means[name]:.2f}" for name in ranked)
        yield f"mean over the {len(whole)} methods that have every strategy: {told}"


def _losses(leaderboard: Leaderboard) -> Iterable[str]:
    for word, lost in (("failed", leaderboard.failed), ("skipped", leaderboard.skipped)):
        if lost:
            count = sum(loss.count for loss in lost)
            cells = "cell" if count == 1 else "cells"
            yield f"{count} {cells} {word} (raybench show ID --results {leaderboard.source}):"
        for loss in lost:
            yield f"  {loss.count} x {loss.reason} [{', '.join(loss.methods)}; {loss.trial_id[:8]}]"
