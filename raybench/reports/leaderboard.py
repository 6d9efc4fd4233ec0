"""Ranks methods: one board per dataset, model, asked amount, strategy, protocol, recipe and track."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from raybench import registry
from raybench.errors import UserError, nearest
from raybench.reports import stopped
from raybench.reports.conditions import CONDITIONS, MissingCells, conditions, missing_cells
from raybench.reports.labels import unique_labels
from raybench.reports.rank_marks import rank_marks
from raybench.reports.recipe_notes import recipe_notes
from raybench.reports.scores import SCORED, averages, scores
from raybench.reports.unfinished import no_results
from raybench.results.constants import array_of, constant
from raybench.results.store import Store
from raybench.sweep.kinds import CHANNELS, TOKENS
from raybench.sweep.target import ASKED, amount, asked_of

Track = Literal["criteria", "regularizers", "tokens", "all"]
Trials = Callable[[Sequence[str]], Mapping[str, Any]]  # trial ids -> resolved trials by id
COLUMNS = tuple(dict.fromkeys((*SCORED, *CONDITIONS)))


@dataclass(frozen=True)
class Query:
    """What to rank; None stands for every value in the store."""

    model: str | None = None
    dataset: str | None = None
    speedup: float | Literal["average"] | None = None
    strategy: str | None = None
    protocol: str | None = None
    track: Track | None = None  # None: criteria and regularizers apart, as PruningBench does, and token reducers
    together: bool = False  # with `track` all: rank token reducers beside methods that remove channels
    by: Literal["strategy"] | None = None  # rank the strategies of all methods in one table


@dataclass(frozen=True)
class Ranked:
    """One ranked method. Metrics in percent, `spread` is the sample standard deviation over `n` seeds."""

    rank: int
    rank_mark: int  # the rank of the best method from which the spread over seeds can't tell this one
    method: str  # with the differing settings in brackets, where configurations share a name
    importance: str
    regularizer: str | None
    strategy: str
    schedule: str
    metric_base: float
    metric_pruned: float
    metric_final: float
    spread: float | None
    n: int
    seeds: tuple[int, ...]
    delta: float
    top5: float | None
    params: float
    params_kept: float
    macs: float
    speedup: float
    latency_base_ms: float | None
    latency_ms: float | None
    step_time_s: float | None
    reg_time_s: float | None
    timing_reason: str | None  # why a timing is missing
    reason: str | None  # why a speed-up misses its target by more than 0.5 %
    trial_id: str  # of one of its cells
    kind: str = CHANNELS  # what it removes: channels or tokens

    @property
    def name(self) -> str:
        """The method as typed: ``importance`` or ``importance+regularizer``."""
        return "+".join(filter(None, (self.importance, self.regularizer)))


@dataclass(frozen=True)
class Board:
    """One ranking, best first."""

    dataset: str
    model: str
    speedup: float | Literal["average"] | None  # None where a ratio was asked for
    ratio: float | None
    strategy: str | None  # None where strategies are ranked too
    protocol: str
    recipe: str
    track: Track
    metric_name: str
    entries: tuple[Ranked, ...]
    params: float | None = None  # base / pruned parameters, where they were asked for
    latency_ms: float | None = None  # of one image, where it was asked for
    latency: float | None = None  # base / pruned milliseconds, where they were asked for
    left_out: tuple[str, ...] = ()  # methods that aren't ranked: the speed-ups that an average lacks, stopped seeds

    @property
    def at(self) -> tuple[float | None, ...] | None:
        """The asked amount as the columns ASKED have it; None for an average."""
        if self.speedup == "average":
            return None
        return self.speedup, self.ratio, self.params, self.latency_ms, self.latency

    @property
    def target(self) -> str:
        """The asked amount as text: ``2x``, ``ratio 0.5``, ``2x params``, ``3 ms``, ``2x latency``, or ``average``."""
        return "average" if self.at is None else amount(*self.at)

    @property
    def schedules(self) -> Mapping[str, tuple[str, ...]]:
        """Schedule -> methods that use it."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            found.setdefault(entry.schedule, []).append(entry.method)
        return {name: tuple(dict.fromkeys(found[name])) for name in sorted(found)}


@dataclass(frozen=True)
class Leaderboard:
    """The boards of a query, the conditions of their numbers, and the cells without a result.

    Attributes:
        boards: one ranking for each dataset, model, speed-up, strategy, protocol and recipe.
        conditions: device, versions, seeds, schedules, and in what recipes of one name differ, one line each.
        failed: failed cells by reason.
        skipped: skipped cells by reason.
        source: address of the store.
        trials: trial ids -> resolved trials by id.

    Example:
        >>> Leaderboard(boards=(), conditions=("device: cpu",), failed=(), skipped=()).conditions
        ('device: cpu',)
    """

    boards: tuple[Board, ...]
    conditions: tuple[str, ...]
    failed: tuple[MissingCells, ...]
    skipped: tuple[MissingCells, ...]
    source: str = ""
    trials: Trials = field(default=lambda ids: {}, repr=False, compare=False)

    @classmethod
    def read(cls, store: Store, query: Query | None = None) -> Leaderboard:
        """Rank the results in `store`.

        Args:
            store: the results of one storage.
            query: which cells to rank, and by what; None: all, by the task's metric.

        Returns:
            One board for each dataset, model, speed-up, strategy, protocol and recipe.

        Raises:
            UserError: the store has no results, or none that match the query.

        Example:
            >>> import tempfile
            >>> from raybench.storage.open import open_storage
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Leaderboard.read(Store(open_storage(folder)))
            Traceback (most recent call last):
                ...
            raybench.errors.UserError: no results in ...: expected the --storage folder of a run
        """
        table = store.table(COLUMNS)
        if not table.num_rows:
            raise UserError(no_results(store.storage))
        found = cls.of(table, query or Query(), trials_of(store))
        return replace(found, source=store.storage.url)

    @classmethod
    def of(cls, table: pa.Table, query: Query, trials: Trials) -> Leaderboard:
        """Rank rows that are read already.

        Args:
            table: rows with the columns COLUMNS.
            query: which cells to rank, and by what.
            trials: trial ids -> resolved trials by id, to label methods of one name by the settings that differ.

        Returns:
            One board for each dataset, model, speed-up, strategy, protocol and recipe.

        Raises:
            UserError: no rows match the query.
        """
        table = _chosen(table, query)
        found, absent = averages(table) if query.speedup == "average" else (scores(table), stopped.left_out(table))
        boards = [
            _board(key, rows, query, trials, _left_out(absent, key))
            for key, rows in sorted(_grouped(found, query).items(), key=lambda pair: _order(pair[0]))
        ]
        failed, skipped = missing_cells(table, "failed"), missing_cells(table, "skipped")
        differing = [f"{name}: {text or 'no setting of its own'}" for name, text in recipe_notes(table, trials).items()]
        lines = (*conditions(table), *([f"recipes differ: {'; '.join(differing)}"] if differing else []))
        return cls(tuple(boards), lines, failed, skipped, trials=trials)


_FROM_SCORES = tuple(f.name for f in fields(Ranked) if f.name not in ("rank", "rank_mark", "method", "reason"))


def _chosen(table: pa.Table, query: Query) -> pa.Table:
    """Rows that match the query; UserError with the nearest value when a value of the query matches none."""
    for name in ("dataset", "model", "strategy", "protocol"):
        wanted = getattr(query, name)
        if wanted is not None:
            table = _with(table, name, wanted)
    if isinstance(query.speedup, (int, float)):
        table = _with(table, "speedup_target", float(query.speedup))
    if query.track in ("criteria", "regularizers"):
        trained = pc.is_in(table["importance"], array_of(str, list(_trained())))
        sparse = pc.or_(pc.is_valid(table["regularizer"]), trained)
        table = table.filter(pc.invert(sparse) if query.track == "criteria" else sparse)
    if query.track not in (None, "all"):
        tokens = pc.equal(table["kind"], constant(TOKENS))
        table = table.filter(tokens if query.track == "tokens" else pc.invert(tokens))
    return table


def _with(table: pa.Table, name: str, wanted: Any) -> pa.Table:
    chosen = table.filter(pc.equal(table[name], constant(wanted)))
    if not chosen.num_rows:
        values = sorted(pc.unique(table[name].drop_null()).to_pylist())
        if isinstance(wanted, float):  # for a number there is no slip of the finger to guess at
            found = [f"{value:g}x" for value in values]
            there = " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:]))) or "no speed-ups"
            raise UserError(f"no results with speed-up {wanted:g}x: this store has {there}")
        known = ", ".join(values)
        raise UserError(f"no results with {name} {wanted!r}.{nearest(str(wanted), values)} Found: {known}")
    return chosen


class Key(NamedTuple):
    """What the rows of one board share."""

    dataset: str
    model: str
    protocol: str
    recipe: str
    strategy: str | None
    asked: tuple[Any, ...]  # the columns ASKED; for an average that word, then None
    track: Track


def _grouped(found: Iterable[dict[str, Any]], query: Query) -> dict[Key, list[dict[str, Any]]]:
    groups: dict[Key, list[dict[str, Any]]] = {}
    found = _beside_channels(list(found)) if query.together else found
    for row in found:
        track: Track = "all" if query.track == "all" and (row["kind"] == CHANNELS or query.together) else track_of(row)
        strategy = None if query.by == "strategy" else row.get("scope", row["strategy"])
        asked = ("average", *[None] * (len(ASKED) - 1)) if query.speedup == "average" else asked_of(row)
        key = Key(row["dataset"], row["model"], row["protocol"], row["recipe"], strategy, asked, track)
        groups.setdefault(key, []).append(row)
    return groups


def track_of(row: Mapping[str, Any]) -> Track:
    """The ranking to which a row's method belongs. Trained selections stand beside regularizers."""
    if row["kind"] == TOKENS:
        return "tokens"
    return "regularizers" if row["regularizer"] or row["importance"] in _trained() else "criteria"


def _trained() -> Collection[str]:
    """Names of the trained selections; those of plug-ins that aren't loaded here count as criteria."""
    return registry.selection.entries().keys()


def _beside_channels(found: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The rows, those of token reducers once for each strategy of channels on the same model and data, as `scope`."""
    scopes: dict[tuple[Any, ...], dict[str, None]] = {}
    same = ("dataset", "model", "protocol", "recipe")
    for row in found:
        if row["kind"] == CHANNELS:
            scopes.setdefault(tuple(row[name] for name in same), {})[row["strategy"]] = None
    for row in found:
        of_channels = scopes.get(tuple(row[name] for name in same), {}) if row["kind"] == TOKENS else {}
        yield from ({**row, "scope": scope} for scope in of_channels or (row["strategy"],))


def _order(key: Key) -> Key:
    """`key` as it is sorted: speed-ups before other amounts, and rising."""
    amounts = tuple((one is not None, 0.0 if one == "average" else one or 0.0) for one in reversed(key.asked))
    return key._replace(strategy=key.strategy or "", asked=amounts)


def _board(key: Key, rows: list[dict[str, Any]], query: Query, trials: Trials, left_out: tuple[str, ...]) -> Board:
    labels = unique_labels(rows, trials, shown=("method", "strategy") if query.by else ("method",))
    ranked = sorted(rows, key=lambda row: (-_score(row), labels[row["config_id"]], row["strategy"], row["config_id"]))
    ranks: list[int] = []
    for place, row in enumerate(ranked):
        same = place and _score(row) == _score(ranked[place - 1])
        ranks.append(ranks[-1] if same else place + 1)  # equal metrics share a rank
    marks = rank_marks([(rank, _score(row), row["spread"], row["n"]) for rank, row in zip(ranks, ranked, strict=True)])
    entries = [
        _entry(row, rank, mark, labels[row["config_id"]]) for row, rank, mark in zip(ranked, ranks, marks, strict=True)
    ]
    speedup, ratio, params, latency_ms, latency = key.asked
    return Board(
        key.dataset, key.model, speedup, ratio, key.strategy, key.protocol, key.recipe, key.track,
        ranked[0]["metric_name"], tuple(entries), params, latency_ms, latency, left_out,
    )  # fmt: skip


def _score(row: Mapping[str, Any]) -> float:
    return round(row["metric_final"], 6)  # the last bits of a mean depend on the order of summation


def _entry(row: Mapping[str, Any], rank: int, mark: int, label: str) -> Ranked:
    missed = row["reason"] or ("no reason given" if (row["off_target"] or 0) > 0.005 else None)
    return Ranked(rank, mark, label, **{name: row[name] for name in _FROM_SCORES}, reason=missed)


def _left_out(absent: Iterable[Mapping[str, Any]], key: Key) -> tuple[str, ...]:
    """Methods of `absent` that the board of `key` would rank if they had all of their results, with what they lack."""
    lacking = [f"{row['method']} ({row.get('stopped') or _lacks(row)})" for row in absent if _belongs(row, key)]
    return tuple(sorted(lacking))


def _belongs(row: Mapping[str, Any], key: Key) -> bool:
    return (
        (row["dataset"], row["model"], row["protocol"], row["recipe"]) == key[:4]
        and (key.asked[0] == "average" or key.asked == asked_of(row))
        and key.strategy in (None, row["strategy"])
        and key.track in ("all", track_of(row))
    )


def _lacks(row: Mapping[str, Any]) -> str:
    return f"lacks {', '.join(f'{s:g}x' for s in row['missing']) or 'a seed with every speed-up'}"


def trials_of(store: Store) -> Trials:
    """A function from trial ids to trials. The wide column `trial` is read at its first call."""
    table = cache(lambda: store.table(["trial_id", "trial"]))

    def chosen(ids: Sequence[str]) -> dict[str, Any]:
        rows = table().filter(pc.is_in(table()["trial_id"], array_of(str, ids)))
        return {row["trial_id"]: json.loads(row["trial"]) for row in rows.to_pylist()}

    return chosen
