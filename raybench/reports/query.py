"""SQL over a store: DuckDB on the store's pyarrow dataset, without access to other files or the network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
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
from raybench.sweep.method_label import method_label
from raybench.sweep.target import ASKED

CLOSED: dict[str, str | bool | int | float | list[str]] = {  # a query reads the views and no other file or address
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "python_enable_replacements": False,
}
READING = ("SELECT", "EXPLAIN", "MULTI")  # MULTI is what DuckDB reports for PIVOT
_WHERE = ", ".join(("trial_id", "dataset", "model", "method", "strategy", "protocol", "recipe", *ASKED, "seed"))
NAMES = ("trials", "leaderboard", "published", "literature", "curves", "layers")
LABELLED = pa.schema([("trial_id", pa.string()), ("label", pa.string()), ("method_params", pa.string())])
VIEWS = {
    "trials": "SELECT rows.*, rows.params AS params_count, labels.label, labels.method_params, labels.method_struct "
    "FROM rows LEFT JOIN labels USING (trial_id)",
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
        for name, make in _sources(store, _words(sql)).items():
            connection.register(name, make())
        for name, definition in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {definition}")
        try:
            kinds = [statement.type.name for statement in connection.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in READING:
                raise UserError(f"found {' and '.join(kinds) or 'nothing'}, expected a SELECT")
            found = connection.sql(sql)
            rows = found.fetchall()
            if "tables" in _words(sql) and sql.strip().lower().startswith("show"):
                rows = [row for row in rows if row[0] in NAMES]  # not the two that `trials` is made of
            return Answer(tuple(found.columns), tuple(rows))
        except duckdb.Error as error:
            raise UserError(f"{error}\nviews: {', '.join(NAMES)}") from error


def _words(sql: str) -> set[str]:
    """The names in a query, in lower case, and ``*`` where it asks for all columns."""
    text = sql.lower()
    whole = re.sub(r"count\s*\(\s*\*\s*\)", "", text)
    return set(re.findall(r"\w+", text)) | ({"*"} if "*" in whole or "describe" in text or "columns" in text else set())


def _sources(store: Store, words: set[str]) -> dict[str, Callable[[], Any]]:
    """View name -> function that makes its data; leaderboard and published figures only if the query names them."""
    everything = "tables" in words  # SHOW TABLES
    makers: dict[str, Callable[[], Any]] = {"rows": lambda: dataset(store), "labels": lambda: _labels(store, words)}
    if "leaderboard" in words or everything:
        makers["leaderboard"] = lambda: _leaderboard(store)
    if "published" in words or everything:
        makers["published"] = lambda: pa.Table.from_pylist(list(published()))
    if "literature" in words or everything:
        makers["literature"] = lambda: pa.Table.from_pylist([asdict(row) for row in literature()])
    return makers


def _labels(store: Store, words: set[str]) -> pa.Table:
    """trial_id, label of the method with its parameters, and these as JSON and as a struct; empty where not read."""
    if not words & {"label", "method_params", "method_struct", "*"}:
        return LABELLED.append(pa.field("method_struct", _struct([]))).empty_table()
    rows = []
    for row in store.table(["trial_id", "trial"]).to_pylist():
        trial = json.loads(row["trial"])
        parts = {"params": trial["importance"], "regularizer_params": trial["regularizer"]}
        params = {name: part["params"] for name, part in parts.items() if part and part["params"]}
        named = {"trial_id": row["trial_id"], "label": method_label(trial), "method_params": json.dumps(params)}
        rows.append({**named, "method_struct": params})
    kind = _struct([row["method_struct"] for row in rows])
    for row in rows:
        row["method_struct"] = _fitted(row["method_struct"], kind)
    return pa.Table.from_pylist(rows, schema=LABELLED.append(pa.field("method_struct", kind)))


def _struct(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> pa.StructType:
    """Struct of `params` and `regularizer_params` with every parameter that occurs; text where the types differ."""
    groups = []
    for group in ("params", "regularizer_params"):
        kinds: dict[str, set[type]] = {}
        for one in found:
            for name, value in one.get(group, {}).items():
                kinds.setdefault(name, set()).add(float if type(value) is int else type(value))
        names = sorted(kinds) or ["none"]  # DuckDB has no struct without fields
        fields = [(name, _ARROW.get(next(iter(kinds.get(name, {str}))), pa.string())) for name in names]
        mixed = {name for name, seen in kinds.items() if len(seen) > 1}
        groups.append((group, pa.struct([(name, pa.string() if name in mixed else kind) for name, kind in fields])))
    return pa.struct(groups)


_ARROW = {float: pa.float64(), bool: pa.bool_(), str: pa.string()}


def _fitted(params: Mapping[str, Mapping[str, Any]], kind: pa.StructType) -> dict[str, dict[str, Any]]:
    """`params` with text where the struct has text."""
    return {
        group: {n: str(v) if kind.field(group).type.field(n).type == pa.string() else v for n, v in values.items()}
        for group, values in params.items()
    }


def _leaderboard(store: Store) -> pa.Table:
    if not store.statuses():
        return leaderboard_table(Leaderboard((), (), (), ()))
    return leaderboard_table(Leaderboard.read(store))
