"""SQL over a store: DuckDB on the store's pyarrow dataset, without access to other files or the network."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raybench.errors import UserError
from raybench.reports.leaderboard import Leaderboard
from raybench.reports.leaderboard_rows import table as leaderboard_table
from raybench.reports.literature import literature
from raybench.reports.published import published
from raybench.results.dataset import dataset
from raybench.results.store import Store

CLOSED: dict[str, str | bool | int | float | list[str]] = {  # a query reads the views and no other file or address
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
}
READING = ("SELECT", "EXPLAIN", "MULTI")  # MULTI is what DuckDB reports for PIVOT
_WHERE = "trial_id, dataset, model, method, strategy, protocol, recipe, speedup_target, ratio, seed"
VIEWS = {
    "curves": f"SELECT {_WHERE}, entry.* FROM (SELECT *, unnest(curve) AS entry FROM trials)",
    "layers": f"SELECT {_WHERE}, entry.* FROM (SELECT *, unnest(layers) AS entry FROM trials)",
}


@dataclass(frozen=True)
class Answer:
    """Result of a query: column names, and rows in order."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(store: Store, sql: str) -> Answer:
    """Run one SELECT over the views trials, leaderboard, curves, layers, published and literature.

    Raises UserError, with DuckDB's message, when the SQL is wrong, and when DuckDB is not installed.
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
            raise UserError(
                f"{error}\nviews: {', '.join(('trials', 'leaderboard', 'published', 'literature', *VIEWS))}"
            ) from error


def _sources(store: Store, words: set[str]) -> dict[str, Callable[[], Any]]:
    """View name -> function that makes its data; leaderboard and published figures only if the query names them."""
    makers: dict[str, Callable[[], Any]] = {"trials": lambda: dataset(store)}
    if "leaderboard" in words:
        makers["leaderboard"] = lambda: _leaderboard(store)
    if "published" in words:
        makers["published"] = lambda: pa.Table.from_pylist(list(published()))
    if "literature" in words:
        makers["literature"] = lambda: pa.Table.from_pylist([asdict(row) for row in literature()])
    return makers


def _leaderboard(store: Store) -> pa.Table:
    if not store.statuses():
        return leaderboard_table(Leaderboard((), (), (), ()))
    return leaderboard_table(Leaderboard.read(store))
