"""Rows with a right checksum that raybench can't have written: named, left out, made again, and never a traceback."""

import json
import shlex
import shutil

import pyarrow as pa
import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.results.arrow import to_table
from raybench.results.columns import COLUMNS
from raybench.results.encoding import encode
from raybench.results.files import StoreWarning
from raybench.results.layout import attempt_key, cell_key
from raybench.results.merging import merge
from raybench.results.plausible import implausible_rows
from raybench.results.repair import Repair
from raybench.results.schema import Record, row_sha256
from raybench.results.store import Store
from raybench.storage.damage import DamageWarning
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial

DEEP = "[" * 50_000 + "]" * 50_000
NULLS = (
    "metric_final", "strategy", "delta", "speedup", "params", "params_kept", "metric_pruned", "metric_base", "schedule",
    "method", "importance", "kind", "trial",
)  # fmt: skip
TRIALS = ("[]", "{}", "", "null", "x = 1", DEEP, json.dumps({"importance": {"name": "lamp"}}))
ODD = [
    *((name, None) for name in NULLS),
    *(("trial", text) for text in TRIALS),
    *((name, value) for name in ("metric_final", "latency_ms", "delta") for value in (float("nan"), float("inf"))),
    ("speedup_target", 0.0), ("speedup_target", None), ("speedup", -1.0), ("latency_ms", 0.0), ("params", 2**62),
    ("seed", None), ("round_to", 0), ("kind", "unknown"), ("traceback_path", "../../x"), ("traceback_path", "a/../b"),
    ("traceback_path", "/etc/passwd"), ("layers", [None]), ("curve", [None]),
]  # fmt: skip
CHANGED = [column for column in COLUMNS if column.name not in ("trial_id", "row_sha256")]
OTHER = {
    "string": (None, "", "zz", "../../x", "[]", "{}", DEEP), "int": (None, -1, 0, 2**62), "bool": (None,),
    "float": (None, float("nan"), float("inf"), -1.0, 0.0), "list": (None, [], [None]), "struct": (None,),
}  # fmt: skip


def odd(name, value, of=None):
    """A finished row with one other value, and the checksum of what it holds."""
    values = {**(of or row()), name: value}
    return {**values, "row_sha256": row_sha256(values)}


def put(folder, content):
    """A store whose row of `trial()` has the bytes `content`, beside a good row."""
    store = Store(open_storage(folder))
    store.publish(row(trial(seed=1)))
    store.storage.create(cell_key(row()), content)
    return store


def vouched(rows, monkeypatch):
    """The file of a stranger that says of itself that its rows were checked."""
    with monkeypatch.context() as patch:
        patch.setattr("raybench.results.plausible.implausible_rows", lambda table: {})
        data = encode(rows)
    assert b"raybench.rows" in data
    return data


@pytest.mark.parametrize(("name", "value"), ODD, ids=lambda value: repr(value)[:20])
def test_an_odd_row_is_left_out_and_named(name, value, tmp_path):
    store = put(tmp_path, encode([odd(name, value)]))
    with pytest.warns(StoreWarning, match="is none that raybench writes|without a trial_id"):
        table = store.table(["trial_id"])
    assert table["trial_id"].to_pylist() == [trial(seed=1).trial_id]
    with pytest.warns(StoreWarning), pytest.raises(UserError, match="can't be read"):
        store.record(trial().trial_id)


@pytest.mark.parametrize(("name", "value"), ODD[:: len(ODD) // 6], ids=lambda value: repr(value)[:20])
def test_a_run_makes_an_odd_row_again(name, value, tmp_path):
    store = put(tmp_path, encode([odd(name, value)]))
    (damage,) = Repair(store.storage).look([trial(), trial(seed=1)])
    assert (damage.file.trial_id, damage.rescued) == (trial().trial_id, {})
    with pytest.warns(DamageWarning, match="none that raybench writes"):
        assert Repair(store.storage).run([trial()])
    assert store.publish(row())
    assert store.table(["metric_final"])["metric_final"].to_pylist() == [97.0, 97.0]


def test_an_odd_row_of_a_part_leaves_the_others(tmp_path):
    rows = [row(trial(seed=seed)) for seed in range(4)] + [odd("strategy", None)]
    store = Store(open_storage(tmp_path))
    store.storage.create(cell_key(row()).rpartition("/")[0] + f"/part-{'a' * 16}.parquet", encode(to_table(rows[1:])))
    with pytest.warns(StoreWarning, match="strategy: found null"):
        assert sorted(store.table(["seed"])["seed"].to_pylist()) == [1, 2, 3]
    with pytest.raises(UserError, match="no trial"):
        store.record(trial().trial_id)
    (damage,) = Repair(store.storage).look([trial()])
    assert len(damage.rescued) == 3


@pytest.mark.parametrize("of_its_word", [False, True])
def test_merge_copies_no_odd_row(of_its_word, tmp_path, monkeypatch):
    rows = [odd("metric_final", None)]
    source = put(tmp_path / "from", vouched(rows, monkeypatch) if of_its_word else encode(rows))
    lost = Record({**failure(trial(seed=2)), "traceback_path": "../../x"})
    source.storage.create(attempt_key(lost["trial_id"], 1), encode([lost]))
    target = Store(open_storage(tmp_path / "to"))
    with pytest.warns(StoreWarning, match="metric_final: found null"):
        merged = merge(target, source)
    assert (merged.cells, merged.attempts) == (1, 0)
    assert set(target.statuses()) == {trial(seed=1).trial_id}


def test_good_rows_are_plausible():
    diverged = row(loss_final=3e38, metric_final=0.0, metric_pruned=-1.0)
    tried = [row(), row(trial(regularizer="group-norm")), diverged, failure(), Record.skipped(trial(), "no")]
    assert implausible_rows(to_table(tried)) == {}
    lean = to_table(tried).drop_columns(["layers", "curve", "provenance", "top5"])
    assert implausible_rows(lean) == {}
    assert implausible_rows(pa.table({"trial_id": ["0123456789abcdef"]})) == {}


def test_a_file_with_a_row_that_is_not_plausible_does_not_vouch_for_it():
    assert b"raybench.rows" in encode([row()])
    assert b"raybench.rows" not in encode([odd("delta", None)])


@pytest.mark.parametrize("column", CHANGED, ids=lambda column: column.name)
@pytest.mark.filterwarnings("ignore")
def test_no_value_of_a_column_ends_a_verb_in_a_traceback(column, tmp_path, monkeypatch, capfd):
    """The hardest case: the file says that its rows were checked."""
    monkeypatch.chdir(tmp_path)
    verbs = ("leaderboard s", f"show {trial().trial_id} --results s", f"export {trial().trial_id} --results s -o out")
    verbs += ("compare s", "query s 'SELECT * FROM trials'", "query s 'SELECT label, method_params FROM trials'")
    heavy = ("report s -o pages",) if column.needed else ()
    for value in OTHER[column.type]:
        shutil.rmtree("s", ignore_errors=True)
        put(tmp_path / "s", vouched([odd(column.name, value)], monkeypatch))
        for verb in verbs + (heavy if value is None or column.name == "trial" else ()):
            code = called(verb)
            said = "".join(capfd.readouterr())
            assert code in (0, 1, 2, 3), (column.name, repr(value)[:30], verb)
            assert "Traceback" not in said, (column.name, repr(value)[:30], verb, said[-800:])
            shutil.rmtree("out", ignore_errors=True)
            shutil.rmtree("pages", ignore_errors=True)


def called(line):
    """The exit code of a verb."""
    try:
        return main(shlex.split(line))
    except SystemExit as stop:
        return stop.code
