"""Figures of pruned networks before and after: one row a network, or a list of figures on a narrow terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybench.reports.text import aligned, column_widths, wrapped
from raybench.sweep.target import amount_of, asked_of

ROWS_FROM = 100  # characters: a narrower terminal gets the list
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure of a network: its name in a heading, its longer name in the list, and its text."""

    title: str
    name: str
    text: Callable[[Row], str]


@dataclass(frozen=True)
class Best:
    """What networks are ranked by: a column, which direction of it is better, and its unit."""

    column: str
    sign: int  # -1: the highest is best
    unit: str


BEST = {"accuracy": Best("metric_final", -1, "%"), "latency": Best("latency_ms", 1, "ms")}


def _si(value: float) -> str:
    """A count with three digits: 904, 60.1k, 11.7M, 1.81G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}" if value < 999.5 * size else f"{value / size:.0f}{letter}"
    return f"{value:.0f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _change(before: str, after: str, form: Callable[[float], str]) -> Callable[[Row], str]:
    """Text of a figure as `before -> after`; a dash where it was not measured."""

    def text(row: Row) -> str:
        old, new = row.get(before), row.get(after)
        return "-" if old is None or new is None else f"{form(old)} -> {form(new)}"

    return text


def figures_of(metric: str) -> tuple[Figure, ...]:
    """The figures in the order in which they are printed; `metric` is the name of the accuracy."""
    return (
        Figure("speed-up", "speed-up (MACs)", lambda row: f"{row['speedup']:.3f}"),
        Figure(f"{metric} %", f"{metric}, %", _change("metric_base", "metric_final", lambda x: f"{x:.2f}")),
        Figure("cut only", "  before fine-tuning", lambda row: f"{row['metric_pruned']:.2f}"),
        Figure("ms, 1 image", "latency, 1 image, ms", _change("latency_base_ms", "latency_ms", _digits)),
        Figure("ms, 32", "latency, 32 images, ms", _change("latency_b32_base_ms", "latency_b32_ms", _digits)),
        Figure("images/s", "throughput, images/s", _change("throughput_base", "throughput", _digits)),
        Figure("params", "parameters", _change("params_base", "params", _si)),
        Figure("MACs", "MACs", _change("macs_base", "macs", _si)),
        Figure("file MB", "file, MB", _change("bytes_base", "bytes", lambda size: f"{size / 1e6:.3g}")),
    )


def ranked(rows: Sequence[Row], best: str) -> list[Row]:
    """`rows` by target, and within a target by `best`, a name in BEST; those without the figure come last."""
    by = BEST[best]

    def key(row: Row) -> tuple[float, bool, float]:
        value = row[by.column]
        return next((one for one in asked_of(row) if one is not None), 0.0), value is None, by.sign * (value or 0.0)

    return sorted(rows, key=key)


def best_lines(rows: Sequence[Row], best: str) -> Iterator[str]:
    """For each target the network that is best, with its figure and folder."""
    by = BEST[best]
    targets: dict[str, list[Row]] = {}
    for row in ranked(rows, best):
        targets.setdefault(target_of(row), []).append(row)
    for target, found in targets.items():
        value = found[0][by.column]
        if value is None:
            yield f"best {best} at {target}: not known: {found[0]['timing_reason'] or 'not measured'}"
            continue
        equal = [row["label"] for row in found[1:] if row[by.column] == value]
        yield f"best {best} at {target}: {found[0]['label']}, {value:.4g} {by.unit}"
        yield from [f"    equal: {', '.join(equal)}"] if equal else ()
        yield from [f"    {found[0]['files']}"] if found[0].get("files") else ()


def target_of(row: Row) -> str:
    """The target of a row: ``2x``, ``ratio 0.5``, ``2x params``, ``3 ms`` or ``2x latency``."""
    return amount_of(row)


def labels_of(rows: Sequence[Row]) -> list[str]:
    """The target of each row, after the method where there are several."""
    several = len({row["label"] for row in rows}) > 1
    return [f"{row['label']} {target_of(row)}" if several else target_of(row) for row in rows]


def as_lines(rows: Sequence[Row], width: int | None) -> list[str]:
    """The figures of finished networks, all of one metric.

    Args:
        rows: rows of results with their `label` (a method with its parameters), and with `bytes_base` and `bytes`, the
            sizes of the files, if known.
        width: characters of the terminal; None in a pipe, where lines may have any length.
    """
    shown = figures_of(rows[0]["metric_name"])
    cells = [[figure.text(row) for figure in shown] for row in rows]
    labels = labels_of(rows)
    table = [["target", *(figure.title for figure in shown)]]
    table += [[label, *line] for label, line in zip(labels, cells, strict=True)]
    wide = aligned(table, [False] * len(table[0]))
    if width is None or (width >= ROWS_FROM and max(map(len, wide)) <= width):
        return [*wide, *_untimed(rows)]
    lists = _lists([figure.name for figure in shown], labels, cells, width)
    return [*lists, *(line for note in _untimed(rows) for line in wrapped(note, width))]


def _lists(names: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """One line a figure, one column a network: as many networks beside each other as fit, then the next ones."""
    columns = [[label, *line] for label, line in zip(labels, cells, strict=True)]
    first = ["", *names]
    lines: list[str] = []
    while columns:
        count = max(1, next((n for n in range(len(columns), 0, -1) if _total([first, *columns[:n]]) <= width), 1))
        block = [list(row) for row in zip(first, *columns[:count], strict=True)]
        lines += [*([""] if lines else []), *aligned(block, [False, *[True] * count])]
        columns = columns[count:]
    return lines


def _total(columns: Sequence[Sequence[str]]) -> int:
    return sum(column_widths(list(zip(*columns, strict=True)))) + 2 * (len(columns) - 1)


def _untimed(rows: Sequence[Row]) -> list[str]:
    """Why latencies are missing, each reason once."""
    reasons = {row["timing_reason"]: None for row in rows if row["latency_ms"] is None and row["timing_reason"]}
    reasons |= {row["batch_reason"]: None for row in rows if row["latency_b32_ms"] is None and row["batch_reason"]}
    return [f"not measured: {reason}" for reason in reasons]
