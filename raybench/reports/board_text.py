"""A leaderboard as an aligned text table that fits a terminal's width, or as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from raybench import registry
from raybench.errors import counted
from raybench.reports.leaderboard import Board, Leaderboard, Ranked
from raybench.reports.text import aligned, column_widths, indented, markdown, signed, wrapped
from raybench.sweep.kinds import TOKENS

NOT_MEASURED = "n/m"
TOGETHER = "\N{NO-BREAK SPACE}"  # between words that no line break may part; printed as a space


@dataclass(frozen=True)
class PrintedColumn:
    """One printed column. A narrow terminal drops those with the highest `drop_order` first, those with 0 never."""

    title: str
    unit: str
    text: Callable[[Ranked], str]
    drop_order: int = 0
    left: bool = False  # left-aligned


def _timing(value: float | None, entry: Ranked) -> str:
    if value is None:
        return NOT_MEASURED if entry.timing_reason else "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def final_text(entry: Ranked) -> str:
    """The final metric, with the spread over seeds where there are several."""
    return f"{entry.metric_final:.2f}" + (f"±{entry.spread:.2f}" if entry.spread is not None else "")


def millions(value: float) -> str:
    """A number of parameters or MACs in millions: three decimals below ten million, one above."""
    return f"{value / 1e6:.3f}" if value < 1e7 else f"{value / 1e6:.1f}"


def _reg_time(entry: Ranked) -> str:
    return _timing(entry.reg_time_s, entry) if entry.regularizer else "-"


COLUMNS = (
    PrintedColumn("#", "", lambda e: f"{'' if e.rank == e.rank_mark else '~'}{e.rank_mark}"),
    PrintedColumn("method", "", lambda e: e.method, left=True),
    PrintedColumn("strategy", "", lambda e: e.strategy, left=True),
    PrintedColumn("base", "%", lambda e: f"{e.metric_base:.2f}", drop_order=2),
    PrintedColumn("pruned", "%", lambda e: f"{e.metric_pruned:.2f}"),
    PrintedColumn("final", "%", final_text),
    PrintedColumn("n", "", lambda e: str(e.n), drop_order=3),
    PrintedColumn("Δ", "pts", lambda e: signed(e.delta)),
    PrintedColumn("params", "M", lambda e: millions(e.params)),
    PrintedColumn("kept", "%", lambda e: f"{100 * e.params_kept:.1f}", drop_order=4),
    PrintedColumn("MACs", "M", lambda e: millions(e.macs), drop_order=5),
    PrintedColumn("speedup", "x", lambda e: f"{e.speedup:.2f}{'*' if e.reason else ''}"),
    PrintedColumn("latency", "ms", lambda e: _timing(e.latency_ms, e), drop_order=1),
    PrintedColumn("step", "s", lambda e: _timing(e.step_time_s, e), drop_order=6),
    PrintedColumn("reg", "s", _reg_time, drop_order=7),
)


def as_text(leaderboard: Leaderboard, width: int) -> str:
    """Conditions, then every board with its notes, all within `width` characters; then failed and skipped cells."""
    conditions = [part for line in leaderboard.conditions for part in wrapped(line, width)]
    blocks = ["\n".join(conditions)]
    for board in leaderboard.boards:
        fitted = _fitted(board, width)
        title = [line.replace(TOGETHER, " ") for line in wrapped(title_of(board, fitted.constants), width, rest="")]
        hidden = [f"not shown at this width: {', '.join(fitted.hidden)}"] if fitted.hidden else []
        notes = [
            line
            for note in (*_mark_notes(board), *board_notes(board), *_meanings(fitted), *hidden)
            for line in wrapped(note, width)
        ]
        blocks.append("\n".join([*title, *fitted.lines, *notes]))
    return "\n\n".join([*blocks, *filter(None, [missing_text(leaderboard, width)])])


def as_markdown(leaderboard: Leaderboard) -> str:
    """Every board as a GitHub table with all columns."""
    blocks = ["\n".join(f"- {markdown(line)}" for line in leaderboard.conditions)]
    for board in leaderboard.boards:
        shown = board_columns(board)
        headers = [f"{c.title} ({c.unit})" if c.unit else c.title for c in shown]
        rules = [":--" if c.left else "--:" for c in shown]
        rows = [[markdown(c.text(entry)) for c in shown] for entry in board.entries]
        table = ["| " + " | ".join(cells) + " |" for cells in (headers, rules, *rows)]
        notes = [f"- {markdown(note)}" for note in (*_mark_notes(board), *board_notes(board))]
        blocks.append("\n".join([f"### {markdown(title_of(board))}", "", *table, *([""] if notes else []), *notes]))
    missing = [f"{'  ' * line.startswith(' ')}- {markdown(line)}" for line in missing_lines(leaderboard)]
    return "\n\n".join([*blocks, *filter(None, ["\n".join(missing)])])


@dataclass(frozen=True)
class _Fitted:
    """A board's lines after columns were dropped to fit a width."""

    lines: tuple[str, ...]
    constants: str  # dropped columns with one value for all methods, as text for the title
    hidden: tuple[str, ...]  # titles of the other dropped columns


def _fitted(board: Board, width: int) -> _Fitted:
    shown, constants, hidden = list(board_columns(board)), [], []
    while True:
        cells = [[c.title for c in shown], [c.unit for c in shown]]
        cells += [[c.text(entry) for c in shown] for entry in board.entries]
        fits = sum(column_widths(cells)) + 2 * (len(shown) - 1) <= width
        droppable = sorted((c for c in shown if c.drop_order), key=_drop_first(board))
        if fits or not droppable:
            break
        shown.remove(droppable[0])
        values = {droppable[0].text(entry) for entry in board.entries}
        if values == {"-"}:
            continue
        if len(values) == 1:
            known = f"{droppable[0].title} {values.pop()} {droppable[0].unit}".strip()
            constants.append(known.replace(" ", TOGETHER))
        else:
            hidden.append(droppable[0].title)
    lines = aligned(cells, [not c.left for c in shown], "  " if fits else " ")
    return _Fitted(tuple(lines), ", ".join(constants), tuple(hidden))


MEANINGS = {
    "step": "step: seconds of one scoring and selection step",
    "reg": "reg: seconds of one sparsifying epoch",
}


def _meanings(fitted: _Fitted) -> Iterable[str]:
    """What the short headings of the shown columns mean, in one line."""
    shown = fitted.lines[0].split()
    found = [text for name, text in MEANINGS.items() if name in shown]
    return ["; ".join(found)] if found else []


def _drop_first(board: Board) -> Callable[[PrintedColumn], tuple[int, int]]:
    """Sort key: columns without a value first, then those with one value, which the title can hold, by `drop_order`."""

    def key(column: PrintedColumn) -> tuple[int, int]:
        values = {column.text(entry) for entry in board.entries}
        return 0 if values == {"-"} else 1 if len(values) == 1 else 2, -column.drop_order

    return key


def board_columns(board: Board) -> Sequence[PrintedColumn]:
    """The columns of a board: without the strategy where it ranks only one."""
    return [c for c in COLUMNS if c.title != "strategy" or board.strategy is None]


def title_of(board: Board, constants: str = "") -> str:
    """What the table ranks: model, data, target, scope and track; `constants` are columns that it doesn't show."""
    speedup = "average over speed-ups" if board.speedup == "average" else board.target
    tokens = any(entry.kind == TOKENS for entry in board.entries)
    both = "criteria, regularizers and token reducers" if tokens else "criteria and regularizers"
    selections = any(entry.importance in registry.selection.entries() for entry in board.entries)
    sparse = "regularizers and trained selections" if selections else "regularizers"
    both = both.replace("regularizers", sparse, 1) if selections else both
    tracks = {"criteria": "criteria", "regularizers": sparse, "tokens": "token reducers", "all": both}
    scope = board.strategy or "all strategies"
    where = f"{board.model} on {board.dataset}, {speedup}, {scope}: {tracks[board.track]} by {board.metric_name}"
    return f"{where} ({', '.join(filter(None, [f'protocol {board.protocol}', f'recipe {board.recipe}', constants]))})"


def _mark_notes(board: Board) -> Iterable[str]:
    """The footnote of shared rank marks."""
    if any(entry.rank != entry.rank_mark for entry in board.entries):
        yield "~: the spread over seeds can't tell it from the method of that rank (95 %)"


MEANS = {"granularity": "granularity (a single step is too large to come closer)"}  # reason of a row -> its meaning


def board_notes(board: Board) -> Iterable[str]:
    """Footnotes: mixed schedules, missed speed-ups, missing timings, methods without an average."""
    if len(board.schedules) > 1:
        mixed = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in board.schedules.items())
        yield f"schedules differ: {mixed}"
    missed: dict[str, list[str]] = {}
    untimed: dict[str, list[str]] = {}
    for entry in board.entries:
        if entry.reason:
            missed.setdefault(MEANS.get(entry.reason, entry.reason), []).append(entry.method)
        if entry.timing_reason:
            untimed.setdefault(entry.timing_reason, []).append(entry.method)
    yield from (f"* {', '.join(methods)}: misses {_asked(board)}: {why}" for why, methods in missed.items())
    yield from (f"{NOT_MEASURED}: {', '.join(methods)}: not measured: {why}" for why, methods in untimed.items())
    if board.left_out:
        what = "in the average" if board.speedup == "average" else "ranked"
        yield f"not {what}: {', '.join(board.left_out)}"
    if board.strategy is None:
        yield from _strategies(board)


def _asked(board: Board) -> str:
    return (
        "the latency by more than 5 %"
        if board.latency_ms or board.latency
        else f"the {'params' if board.params else 'speed-up'} by more than 0.5 %"
    )


def _strategies(board: Board) -> Iterable[str]:
    """Mean final metric of each strategy over the methods that have results for all of them."""
    names = sorted({entry.strategy for entry in board.entries})
    finals: dict[str, dict[str, float]] = {}
    for entry in board.entries:
        finals.setdefault(entry.method, {})[entry.strategy] = entry.metric_final
    complete = [by for by in finals.values() if len(by) == len(names)]
    if complete and len(names) > 1:
        means = {name: sum(by[name] for by in complete) / len(complete) for name in names}
        ranked = sorted(names, key=lambda name: (-means[name], name))
        ranking = ", ".join(f"{name} {means[name]:.2f}" for name in ranked)
        yield f"mean over the {counted(len(complete), 'method')} with a result for every strategy: {ranking}"


def missing_text(leaderboard: Leaderboard, width: int) -> str:
    """Failed and skipped cells by reason, within `width` characters; empty where there are none."""
    return "\n".join(part for line in missing_lines(leaderboard) for part in indented(line, width))


def missing_lines(leaderboard: Leaderboard) -> Iterable[str]:
    """Failed and skipped cells by reason, with an id to look at."""
    for status, missing in (("failed", leaderboard.failed), ("skipped", leaderboard.skipped)):
        if missing:
            count = sum(cells.count for cells in missing)
            noun = "cell" if count == 1 else "cells"
            yield f"{count} {noun} {status} (raybench show ID --results {shlex.quote(leaderboard.source)}):"
        for cells in missing:
            yield f"  {cells.count} x {cells.reason} [{', '.join(cells.methods)}; {cells.trial_id[:8]}]"
