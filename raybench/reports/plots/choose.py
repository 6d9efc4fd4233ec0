"""Makes the plot of a store that was asked for: which board, which ranking, which trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raybench.errors import UserError, counted, nearest
from raybench.reports import cells
from raybench.reports.drawing.shapes import Drawing
from raybench.reports.leaderboard import Board, Leaderboard, Query, trials_of
from raybench.reports.plots.matrix import matrix
from raybench.reports.plots.pareto import ParetoPoint, gain, pareto
from raybench.reports.plots.ranks import critical_picture, ranks
from raybench.reports.plots.trial_plots import curves, widths
from raybench.reports.pruned_text import target_of
from raybench.reports.statistics.critical_difference import critical_difference
from raybench.reports.statistics.rank_intervals import rank_intervals
from raybench.reports.statistics.samples import Samples
from raybench.reports.statistics.win_matrix import win_matrix
from raybench.results.store import Store
from raybench.sweep.method_label import method_label

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = {"column": 240.0, "page": 500.0}  # points: a column of a two-column page is 3.3 inches
MOST_CURVES = 12


@dataclass(frozen=True)
class Wanted:
    """What is drawn; None stands for every value."""

    kind: str
    model: str | None = None
    dataset: str | None = None
    strategy: str | None = None
    protocol: str | None = None
    speedup: float | str | None = None
    against: str = "speedup"
    trials: tuple[str, ...] = ()
    size: str = "column"

    @property
    def width(self) -> float:
        """Width of the drawing in points."""
        return WIDTHS[self.size]


def plot(store: Store, wanted: Wanted) -> Drawing:
    """Draw a plot.

    Raises:
        UserError: nothing in the store matches, or several boards do and one is needed; trials are missing.
    """
    return KINDS[wanted.kind](store, wanted)


def _pareto(store: Store, wanted: Wanted) -> Drawing:
    speedup = wanted.speedup if isinstance(wanted.speedup, (int, float)) else None
    query = Query(wanted.model, wanted.dataset, speedup, wanted.strategy, wanted.protocol, track="all")
    found = [board for board in Leaderboard.read(store, query).boards if board.ratio is None or speedup is None]
    keys = {_key(board) for board in found}
    _only_one(sorted(", ".join(key) for key in keys), "boards", "--dataset, --model, --strategy or --protocol")
    points = [
        ParetoPoint(entry.method, x, entry.metric_final, "")
        for board in found
        for entry in board.entries
        if (x := gain(board, entry, wanted.against)) is not None
    ]
    if not points:
        raise UserError(f"--against {wanted.against}: no finished cell of this board has that figure")
    title = f"{found[0].model} on {found[0].dataset}, {found[0].strategy}"
    metric = f"{found[0].metric_name}, %"
    return pareto(points, wanted.against, metric, title, size=(wanted.width, 0.75 * wanted.width), legend=True)


def _key(board: Board) -> tuple[str, ...]:
    return (board.dataset, board.model, board.strategy or "", board.protocol, board.recipe)


def _samples(store: Store, wanted: Wanted) -> tuple[str, Samples]:
    """The only ranking that matches, over all datasets and models that match."""
    rows = cells.frame(store.table(cells.COLUMNS), trials_of(store))
    for name in ("model", "dataset", "strategy", "protocol"):
        rows = _matching(rows, name, getattr(wanted, name))
    if wanted.speedup == "average":
        found = [(f"{protocol}, {strategy}, average", one) for (protocol, strategy), one in cells.average_scopes(rows)]
    else:
        rows = _matching(rows, "speedup_target", wanted.speedup)
        found = [(f"{a}, {b}, {speedup:g}x", one) for (a, b, speedup), one in cells.scopes(rows)]
    _only_one([name for name, _ in found], "rankings", "--protocol, --strategy or --speedup")
    if len(found[0][1].methods) < 2:
        raise UserError(f"{found[0][0]}: fewer than two methods have finished cells on all of its models")
    return found[0]


def _matching(rows: pd.DataFrame, name: str, value: Any) -> pd.DataFrame:
    """The rows whose column `name` is `value`, all for None; UserError for none, with the values that there are."""
    if value is None or rows.empty:
        return rows
    found = rows[rows[name] == value]
    if found.empty:
        there = sorted(rows[name].dropna().unique())
        if name == "speedup_target":
            shown = ", ".join(f"{one:g}x" for one in there)
            raise UserError(f"no finished cell matches --speedup {value:g}: this store has {shown}")
        found_names = ", ".join(there)
        raise UserError(f"no finished cell matches --{name} {value}.{nearest(value, there)} Found: {found_names}")
    return found


def _only_one(names: Sequence[str], what: str, options: str) -> None:
    if not names:
        raise UserError("no finished cell matches the options")
    if len(names) > 1:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise UserError(f"{len(names)} {what} match, expected one: {'; '.join(names[:5])}{more}. Choose with {options}")


def _ranks(store: Store, wanted: Wanted) -> Drawing:
    name, found = _samples(store, wanted)
    return ranks(rank_intervals(found), f"Ranks: {name}", width=wanted.width)


def _critical(store: Store, wanted: Wanted) -> Drawing:
    name, found = _samples(store, wanted)
    made = critical_difference(found)
    if made.reason:
        raise UserError(f"--kind critical: {made.reason}")
    return critical_picture(made, f"Critical differences: {name}", width=wanted.width)


def _matrix(store: Store, wanted: Wanted) -> Drawing:
    name, found = _samples(store, wanted)
    return matrix(win_matrix(found), f"All pairs: {name}", width=wanted.width)


def _curves(store: Store, wanted: Wanted) -> Drawing:
    if len(wanted.trials) > MOST_CURVES:
        raise UserError(f"--trial: found {counted(len(wanted.trials), 'trial')}, expected {MOST_CURVES} at most")
    rows = [_finished(store, one) for one in _trial_ids(store, wanted)]
    labels = {f"{_label(row)} {target_of(row)}, {row['trial_id'][:6]}": row["curve"] or [] for row in rows}
    title = f"Fine-tuning on {', '.join(sorted({row['dataset'] for row in rows}))}"
    return curves(labels, rows[0]["metric_name"], title, size=(wanted.width, 0.62 * wanted.width + 6 * len(rows)))


def _widths(store: Store, wanted: Wanted) -> Drawing:
    ids = _trial_ids(store, wanted)
    if len(ids) > 1:
        raise UserError(f"--kind widths: found {len(ids)} trials, expected one --trial")
    row = _finished(store, ids[0])
    return widths(row["layers"] or [], f"{_label(row)} on {row['model']}, {target_of(row)}", width=wanted.width)


def _trial_ids(store: Store, wanted: Wanted) -> tuple[str, ...]:
    if not wanted.trials:
        raise UserError(
            f"--kind {wanted.kind}: expected --trial TRIAL_ID; "
            f"`raybench query {store.storage.url} 'SELECT trial_id, label FROM trials'` lists them"
        )
    return wanted.trials


def _label(row: Mapping[str, Any]) -> str:
    """The method with its parameters."""
    return method_label(json.loads(row["trial"])) if row.get("trial") else str(row["method"])


def _finished(store: Store, prefix: str) -> Mapping[str, Any]:
    row = store.record(prefix)
    if row["status"] != "ok":
        raise UserError(f"--trial {prefix}: the cell is {row['status']}, expected a finished one")
    return row


KINDS: Mapping[str, Callable[[Store, Wanted], Drawing]] = {
    "pareto": _pareto, "ranks": _ranks, "critical": _critical, "matrix": _matrix, "curves": _curves, "widths": _widths,
}  # fmt: skip
