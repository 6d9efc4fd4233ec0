"""`raybench show`: everything known of one cell, and a sweep that makes the same trial again."""

import json
from pathlib import Path

import pytest

from raybench.cli.main import main
from raybench.reports.cell_text import sparkline
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import Record, identity
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from tests.unit.result_rows import failure, row, trial

QUICKSTART = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return Store(open_storage(tmp_path / "mine"))


def test_a_finished_cell_shows_all_it_has(store, capsys):
    cell = trial("magnitude-l2", "group-norm")
    store.publish_attempt(failure(cell))
    store.publish(row(cell))
    assert main(["show", cell.trial_id[:6]]) == 0
    printed = capsys.readouterr().out
    assert "top1: base 98.00 -> pruned 60.00 -> final 97.00 % (-1.00)" in printed
    assert "conv1        16 -> 8    50%" in printed
    assert "finetune metric        2 epochs        91 ▁█ 92" in printed
    assert "step_time_s       0.25 s" in printed
    assert "device_name    a processor" in printed
    assert f"results/attempts/{cell.trial_id}-1.parquet" in printed
    assert f"raybench show {cell.trial_id} --results {store.storage.url} --format yaml > cell.yaml" in printed


def test_a_failure_shows_where_its_traceback_lies(store, capsys):
    known = {
        "stage": "base",
        "error_type": "ValueError",
        "error_message": "no data",
        "traceback_path": "tracebacks/x.txt",
    }
    store.publish_attempt(Record.failed(trial(), **known))
    assert main(["show", trial().trial_id]) == 0
    printed = capsys.readouterr().out
    assert "failed in base: ValueError: no data\ntraceback: tracebacks/x.txt" in printed


def test_megabytes_in_a_row_are_printed_shortened(store, capsys):
    store.publish(Record.skipped(trial(), "no " * 1_000_000))
    store.publish(row(trial("lamp"), device="cpu " * 1_000_000))
    for verb in (["show", trial().trial_id], ["show", trial("lamp").trial_id], ["leaderboard", "mine"]):
        assert main(verb) == 0
        printed = capsys.readouterr().out
        assert " characters)" in printed
        assert len(printed) < 60_000


def test_a_skipped_cell_shows_its_reason(store, capsys):
    store.publish(Record.skipped(trial(), "no batch norm"))
    assert main(["show", trial().trial_id]) == 0
    assert "skipped: no batch norm" in capsys.readouterr().out


def test_json_has_every_column_and_no_nan(store, capsys):
    curve = [{"stage": "finetune", "epoch": 1, "train_loss": float("nan")}]
    store.publish(row(curve=curve))
    assert main(["show", trial().trial_id, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["metric_final"] == 97.0
    assert printed["curve"][0]["train_loss"] is None


def test_unknown_and_doubtful_ids(store, capsys, tmp_path):
    assert main(["show", "abc"]) == 2
    assert "found no results in this folder; expected --results DIR" in capsys.readouterr().err
    store.publish(row())
    Store(open_storage(tmp_path / "other")).publish(row())
    assert main(["show", trial().trial_id]) == 2
    assert "choose one with --results DIR" in capsys.readouterr().err
    assert main(["show", "zzz", "--results", "mine"]) == 2
    assert "no trial 'zzz' among the 1" in capsys.readouterr().err


def test_the_printed_sweep_makes_the_same_trial(tmp_path):
    trials = resolve(load_sweep(QUICKSTART))
    for cell in trials[:: max(1, len(trials) // 12)]:
        file = tmp_path / "cell.yaml"
        file.write_text(sweep_of(identity(cell)["trial"]))
        assert [again.trial_id for again in resolve(load_sweep(file))] == [cell.trial_id]


def test_what_a_file_cannot_hold_is_said(tmp_path):
    weights = {"kind": "file", "identity": "abc", "path": "/tmp/w.safetensors"}
    found = sweep_of(identity(trial(weights=weights, dataset_fingerprint="f00"))["trial"])
    assert "# weights: the file with SHA-256 abc" in found
    assert "# data: the folder with fingerprint f00" in found


def test_sparklines():
    assert sparkline([1.0, 2.0, 3.0], 10) == "▁▅█"
    assert sparkline([1.0, float("nan"), 3.0], 10) == "▁ █"
    assert len(sparkline([float(i) for i in range(1000)], 40)) <= 40
    assert sparkline([2.0, 2.0], 10) == "▁▁"
