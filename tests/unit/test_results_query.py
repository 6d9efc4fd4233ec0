"""SQL, notebooks, merging and the published figures."""

import csv
import json
import subprocess
import sys

import pytest

import raybench
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.reports.comparison import compare, spearman
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.published import published
from raybench.reports.query import query
from raybench.results.compaction import compact
from raybench.results.merging import merge
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial


@pytest.fixture
def store(tmp_path):
    """Four finished cells, two of them compacted, one skipped, one failed."""
    store = Store(open_storage(tmp_path / "runs"))
    for seed in (0, 1):
        store.publish(row(trial("lamp", seed=seed), metric_final=96.0 + seed))
    compact(store)
    for seed in (0, 1):
        store.publish(row(trial("fpgm", seed=seed), metric_final=90.0 + seed))
    store.publish(Record.skipped(trial("bn-scale"), "no batch norm"))
    store.publish_attempt(failure(trial("random")))
    return store


def duplicated(store, number):
    """Bring back a compacted cell's own file, as a kill in a compaction leaves it."""
    copy = Store(open_storage(f"{store.storage.url}-copy{number}"))
    copy.publish(row(trial("lamp", seed=number), metric_final=96.0 + number))
    (key,) = copy.storage.list("results")
    store.storage.create(key, copy.storage.read(key))


@pytest.mark.parametrize("copies", [(), (0,), (0, 1)])
def test_every_row_is_seen_once(store, copies):
    for number in copies:
        duplicated(store, number)
    found = query(store, "SELECT status, count(*) FROM trials GROUP BY status ORDER BY status").rows
    assert found == (("failed", 1), ("ok", 4), ("skipped", 1))
    assert query(store, "SELECT count(DISTINCT trial_id) FROM trials").rows == ((6,),)


def test_views(store):
    best = query(store, "SELECT method, metric_final, n FROM leaderboard WHERE rank = 1")
    assert (best.columns, best.rows) == (("method", "metric_final", "n"), (("lamp", 96.5, 2),))
    curves = query(
        store, "SELECT epoch, avg(metric) FROM curves WHERE method = 'lamp' GROUP BY ALL ORDER BY epoch"
    ).rows
    assert curves == ((1, 91.0), (2, 92.0))
    layers = query(store, "SELECT DISTINCT layer, out_before, out_after FROM layers").rows
    assert layers == (("conv1", 16, 8),)
    assert query(store, "SELECT count(*) FROM published").rows == ((339,),)
    assert query(store, "SELECT DISTINCT provenance.device_name FROM trials WHERE status = 'ok'").rows == (
        ("a processor",),
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FRM trials", "Parser Error"),
        ("SELECT metric_finl FROM trials", 'Candidate bindings: "metric_final"'),
        ("SELECT * FROM trial", 'Did you mean "trials"'),
        ("SELECT * FROM read_csv('/etc/hostname')", "disabled by configuration"),
        ("SELECT * FROM 'x.parquet'", "disabled by configuration"),
        ("COPY trials TO 'x.csv'", "found COPY, expected a SELECT"),
        ("INSTALL httpfs", "expected a SELECT"),
        ("SET enable_external_access = true", "found SET, expected a SELECT"),
        ("CREATE TABLE x (i INT)", "found CREATE, expected a SELECT"),
        ("SELECT 1; SELECT 2", "found SELECT and SELECT, expected a SELECT"),
        ("", "found nothing, expected a SELECT"),
    ],
)
def test_wrong_sql_is_told_in_plain_words_and_reaches_nothing(store, sql, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        query(store, sql)
    assert not (tmp_path / "x.csv").exists()


def test_an_empty_store_answers_with_no_rows(tmp_path):
    nothing = Store(open_storage(tmp_path / "nothing"))
    for view in ("trials", "leaderboard", "curves", "layers"):
        assert query(nothing, f"SELECT * FROM {view}").rows == ()


def test_the_verb_prints_every_format(store, capsys):
    sql = "SELECT method, metric_final FROM trials WHERE status = 'ok' ORDER BY metric_final DESC LIMIT 2"
    assert main(["query", store.storage.url, sql]) == 0
    assert capsys.readouterr().out == "method  metric_final\nlamp              97\nlamp              96\n2 rows\n"
    assert main(["query", store.storage.url, sql, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"method": "lamp", "metric_final": 97.0}
    assert main(["query", store.storage.url, sql, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "lamp,97.0"
    assert main(["query", store.storage.url, "SELECT nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_many_small_files_get_a_hint(store, capsys, monkeypatch):
    monkeypatch.setattr("raybench.cli.results.MANY_FILES", 2)
    assert main(["leaderboard", store.storage.url]) == 0
    assert "hint: 3 uncompacted files; `raybench compact" in capsys.readouterr().err


def test_results_as_a_frame_and_as_a_dataset(store):
    frame = raybench.load_results(store.storage.url)
    assert frame.groupby("status").size().to_dict() == {"failed": 1, "ok": 4, "skipped": 1}
    assert list(raybench.load_results(store.storage.url, columns=["seed", "provenance.torch"])) == [
        "seed",
        "provenance.torch",
    ]
    data = raybench.load_results(store.storage.url, kind="dataset")
    assert data.count_rows() == 6
    assert sorted(data.to_table(columns=["metric_final"])["metric_final"].drop_null().to_pylist()) == [90, 91, 96, 97]


@pytest.mark.parametrize("first", ["import raybench", "import raybench.results.store, raybench"])
def test_results_is_a_function_whatever_was_imported_first(store, first):
    code = f"{first}; print(len(raybench.load_results({store.storage.url!r})))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "6"


def test_a_merge_copies_what_is_absent_and_nothing_twice(store, tmp_path, capsys):
    other = Store(open_storage(tmp_path / "other"))
    other.publish(row(trial("lamp", seed=0), metric_final=11.0))
    other.publish(row(trial("random")))
    other.publish(Record.skipped(trial("taylor"), "too big"))
    other.publish_attempt(failure(trial("random"), message="another"))
    other.publish_attempt(failure(trial("cp")))
    done = merge(store, other)
    assert (done.cells, done.attempts, done.known, done.differing) == (2, 2, 1, (trial("lamp", seed=0).trial_id,))
    assert Store(store.storage).statuses()[trial("random").trial_id] == "ok"
    assert store.record(trial("lamp", seed=0).trial_id)["metric_final"] == 96.0
    assert len(store.attempts(trial("random").trial_id)) == 2
    again = merge(store, other)
    assert (again.cells, again.attempts, again.known) == (0, 0, 3)
    assert main(["merge", str(tmp_path / "third"), store.storage.url, other.storage.url]) == 0
    assert "copied 7 cells and 3 failed attempts" in capsys.readouterr().out
    assert main(["merge", store.storage.url, store.storage.url]) == 2
    assert main(["merge", store.storage.url, str(tmp_path / "nothing")]) == 2
    assert main(["merge", str(tmp_path / "fourth"), store.storage.url, str(tmp_path / "nothing")]) == 2
    assert not (tmp_path / "fourth" / "results").exists()


def test_a_big_merge_writes_parts(store, tmp_path, monkeypatch):
    monkeypatch.setattr("raybench.results.merging.FEW", 4)
    other = Store(open_storage(tmp_path / "other"))
    for seed in range(5):
        other.publish(row(trial("cp", seed=seed)))
    assert merge(store, other).cells == 5
    assert len([k for k in store.storage.list("results/cells") if "part-" in k]) == 2
    assert Store(store.storage).table(["trial_id"]).num_rows == 11


def test_the_published_figures():
    rows = published()
    assert len(rows) == 339
    first = rows[0]
    assert (first["model"], first["dataset"], first["method"], first["speedup_target"]) == (
        "cifar-resnet50", "cifar100", "obd-c", 2.0,
    )  # fmt: skip
    assert (first["metric_final"], first["delta"], first["rank"]) == (78.68, 0.33, 1)
    wrong = [r for r in rows if abs(r["metric_final"] - r["metric_base"] - r["delta"]) > 1e-6]
    assert [r["readme_line"] for r in wrong] == [145, 324, 386, 391]
    assert all("delta printed" in r["anomaly"] for r in wrong)
    beyond = next(r for r in rows if r["readme_line"] == 454)
    assert "above the 11.69 M base" in beyond["anomaly"]
    assert sum(r["anomaly"] is not None for r in rows) == 44


def test_published_names_are_names_that_people_type():
    from raybench import registry

    for column, names in (("importance", registry.importance), ("regularizer", registry.regularizer)):
        assert {r[column] for r in published() if r[column]} <= set(names.entries())


def test_a_comparison_worked_by_hand(tmp_path, capsys):
    store = Store(open_storage(tmp_path / "ours"))
    board = {"model": "cifar-resnet50", "dataset": "cifar100", "protocol": "pruningbench", "speedup": 2.0}
    store.publish(row(trial("obd-c", **board), metric_base=80.0, metric_final=80.5))  # +0.50, printed +0.33
    store.publish(row(trial("taylor", **board), metric_base=80.0, metric_final=81.5))  # +1.50, printed +0.16
    store.publish(row(trial("fpgm", **board), metric_base=80.0, metric_final=79.0))  # -1.00, printed +0.02
    store.publish(row(trial("lamp", **board | {"strategy": "local"}), metric_final=80.0))  # nothing to compare with
    compared = compare(Leaderboard.read(store, Query()))
    found = {r.method: (r.difference, r.inside) for r in compared.rows}
    assert found == {
        "obd-c": (pytest.approx(0.17), True),
        "taylor": (pytest.approx(1.34), False),
        "fpgm": (pytest.approx(-1.02), False),
    }
    ((_, methods, correlation),) = compared.agreement
    assert (methods, correlation) == (3, pytest.approx(0.5))  # ours: taylor, obd-c, fpgm; theirs: obd-c, taylor, fpgm
    assert main(["compare", store.storage.url, "--tolerance", "1.1"]) == 0
    assert "2 of 3 cells are inside the tolerance" in capsys.readouterr().out
    assert main(["compare", store.storage.url, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(r["method"], r["inside"]) for r in rows] == [("taylor", "False"), ("obd-c", "True"), ("fpgm", "False")]


def test_a_store_without_published_boards_is_told_what_they_are(store, capsys):
    assert main(["compare", store.storage.url, "--format", "json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == []
    assert "vit-small on imagenet (2x, 3x, 4x)" in printed.err


def test_spearman():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert spearman([1, 1], [1, 2]) == 0.0
