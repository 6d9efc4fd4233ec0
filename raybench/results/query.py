"""SQL over a store: DuckDB on the store's pyarrow dataset. Nothing is downloaded, no file is read or written by SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raybench.errors import UserError
from raybench.results.dataset import dataset
from raybench.results.leaderboard import Leaderboard
from raybench.results.leaderboard_rows import table as leaderboard_table
from raybench.results.published import published
from raybench.results.store import Store

CLOSED = {  # a query reads the views below and nothing else on this machine or the network
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
}
READING = ("SELECT", "EXPLAIN", "MULTI")  # of a pivot
_WHERE = "trial_id, dataset, model, method, strategy, protocol, recipe, speedup_target, ratio, seed"
VIEWS = {
    "curves": f"SELECT {_WHERE}, entry.* FROM (SELECT *, unnest(curve) AS entry FROM trials)",
    "layers": f"SELECT {_WHERE}, entry.* FROM (SELECT *, unnest(layers) AS entry FROM trials)",
}


@dataclass(frozen=True)
class Answer:
    """Rows of a query, in order."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(store: Store, sql: str) -> Answer:
    """Run one SELECT over the views trials, leaderboard, curves, layers and published.

    UserError with DuckDB's own words when the SQL is wrong, and when DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise UserError("query needs DuckDB, which is not installed: pip install 'raybench[sql]'") from error
    with duckdb.connect(":memory:", config=CLOSED) as connection:
        for name, make in _sources(store, set(re.findall(r"\w+", sql.lower()))).items():
            connection.register(name, make())
        for name, definition in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {definition}")
        try:
            kinds = [statement.type.name for statement in connection.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in READING:
                raise UserError(f"found {' and '.join(kinds) or 'nothing'}, expected a SELECT")
            found = connection.sql(sql)
            return Answer(tuple(found.columns), tuple(found.fetchall()))
        except duckdb.Error as error:
            raise UserError(f"{error}\nviews: {', '.join(('trials', 'leaderboard', 'published', *VIEWS))}") from error


def _sources(store: Store, words: set[str]) -> dict[str, Callable[[], Any]]:
    """Makers of what the views stand on; a ranking and the published figures only if the query names them."""
    makers: dict[str, Callable[[], Any]] = {"trials": lambda: dataset(store)}
    if "leaderboard" in words:
        makers["leaderboard"] = lambda: _leaderboard(store)
    if "published" in words:
        makers["published"] = lambda: pa.Table.from_pylist(list(published()))
    return makers


def _leaderboard(store: Store) -> pa.Table:
    if not store.statuses():
        return leaderboard_table(Leaderboard((), (), (), ()))
    return leaderboard_table(Leaderboard.read(store))
