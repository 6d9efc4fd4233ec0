"""Leaderboards that differ only in the speed-up as one table, with a column for each: ``leaderboard --wide``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from raybench.reports.board_text import final_text, missing_text, title_of
from raybench.reports.leaderboard import Board, Leaderboard, Ranked
from raybench.reports.text import aligned, column_widths, signed, wrapped


def as_wide_text(leaderboard: Leaderboard, width: int) -> str:
    """Conditions, then one table for all speed-ups of a model; methods by their mean over the speed-ups."""
    conditions = [part for line in leaderboard.conditions for part in wrapped(line, width)]
    tables: dict[tuple[object, ...], list[Board]] = {}
    for board in leaderboard.boards:
        same = (board.dataset, board.model, board.strategy, board.protocol, board.recipe, board.track)
        tables.setdefault((*same, _kind(board)), []).append(board)
    blocks = ["\n".join(conditions), *("\n".join(_table(boards, width)) for boards in tables.values())]
    return "\n\n".join([*blocks, *filter(None, [missing_text(leaderboard, width)])])


def _kind(board: Board) -> tuple[bool, ...]:
    """Which amount was asked for: boards of different kinds have no common table."""
    return tuple(one is None for one in board.at or ())


Found = dict[tuple[str, str], dict[int, Ranked]]  # (method, strategy) -> place of a board -> entry there


def _table(boards: Sequence[Board], width: int) -> Iterator[str]:
    """Lines of one table: final metric and its spread for each speed-up, a dash where a method has none."""
    found: Found = {}
    for place, board in enumerate(boards):
        for entry in board.entries:
            found.setdefault((entry.method, entry.strategy), {})[place] = entry
    several = boards[0].strategy is None
    cells = _cells(boards, found, several)
    yield from wrapped(_title(boards[0]), width, rest="")
    left = 2 if several else 1
    fits = sum(column_widths(cells)) + 2 * (len(cells[0]) - 1) <= width
    yield from aligned(cells, [place >= left for place in range(len(cells[0]))], "  " if fits else " ")
    if any(_tied(board) for board in boards):
        text = "~: among the best of its column, which the spread over seeds can't tell apart (95 %)"
        yield from wrapped(text, width)
    if any(len(entries) < len(boards) for entries in found.values()):
        yield from wrapped("no mean: methods that lack a speed-up, below the others", width)


def _cells(boards: Sequence[Board], found: Found, several: bool) -> list[list[str]]:
    """The heading and a row for each method, the best mean first; with its strategy where there are `several`."""
    means = {
        key: sum(entry.metric_final for entry in entries.values()) / len(boards)
        for key, entries in found.items()
        if len(entries) == len(boards)
    }
    cells = [["method", *(["strategy"] if several else []), "base", *(board.target for board in boards), "mean", "Δ"]]
    for key in sorted(found, key=lambda key: (-means.get(key, -1.0), key)):
        entries = found[key]
        base = next(iter(entries.values())).metric_base
        finals = [_final(entries[place], boards[place]) if place in entries else "-" for place in range(len(boards))]
        mean = [f"{means[key]:.2f}", signed(means[key] - base)] if key in means else ["-", "-"]
        cells.append([key[0], *([key[1]] if several else []), f"{base:.2f}", *finals, *mean])
    return cells


def _title(board: Board) -> str:
    """The title of `board` and of those for other amounts of the same kind."""
    kind = "latencies" if board.latency_ms or board.latency else "parameter ratios" if board.params else "speed-ups"
    title = title_of(replace(board, speedup="average")).replace("average over speed-ups", f"all {kind}", 1)
    return title.replace(f" by {board.metric_name} (", f" by {board.metric_name} in % (", 1)


def _tied(board: Board) -> bool:
    """Whether the spread can't tell some method from the best."""
    return sum(entry.rank_mark == 1 for entry in board.entries) > 1


def _final(entry: Ranked, board: Board) -> str:
    """The final metric, after a ``~`` where several methods are the best."""
    return f"{'~' if entry.rank_mark == 1 and _tied(board) else ''}{final_text(entry)}"
