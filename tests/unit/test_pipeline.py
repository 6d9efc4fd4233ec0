"""The whole walk on tiny nets, in this process: YAML -> plan -> stages -> rows -> the pruned network at home."""

import json
from pathlib import Path

import pytest
import torch

from raybench.cli.main import main
from raybench.groups.cost import count_macs
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage

SWEEP = """
name: tiny
models: [test-convnet, test-vit]
datasets: digits
methods: [random, magnitude-l1, taylor+group-norm]
include: [{models: test-convnet, methods: bn-scale+bn-scale}]
speedups: [1.5, 2]
recipe:
  base: {epochs: 2, batch_size: 64, optimizer: adamw, lr: 0.004, weight_decay: 0.05}
  sparsify: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}
  finetune: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.003}
  calibration_images: 64
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The storage root of the tiny sweep, run once."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(SWEEP)
    assert main(["run", str(folder / "tiny.yaml"), "--local", "--storage", str(folder / "store")]) == 0
    return folder / "store"


@pytest.fixture(scope="module")
def rows(store):
    return Store(open_storage(str(store))).table().to_pylist()


def test_every_cell_is_an_ok_row_with_a_learning_curve(rows):
    assert len(rows) == 14
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        stages = [epoch["stage"] for epoch in row["curve"]]
        sparse = ["sparsify"] if row["regularizer"] else []
        assert stages == ["base", "base", *sparse, "finetune"]
        assert row["delta"] == pytest.approx(row["metric_final"] - row["metric_base"])
        assert row["metric_base"] > {"test-convnet": 30, "test-vit": 12}[row["model"]]  # chance is 10


def test_the_speed_up_asked_for_is_got_or_the_row_says_why_not(rows):
    for row in rows:
        off = abs(row["speedup"] / row["speedup_target"] - 1)
        assert off <= 0.005 or row["reason"], (row["model"], row["method"], row["speedup"])
        assert row["speedup"] == pytest.approx(row["macs_base"] / row["macs"])


def test_timings_are_there_since_nothing_else_computed(rows):
    for row in rows:
        assert row["exclusive"]
        assert row["latency_ms"] > 0
        assert row["latency_base_ms"] > 0
        assert row["latency_batch"] == 1
        assert row["batch_reason"] is None
        assert row["throughput"] == pytest.approx(32e3 / row["latency_b32_ms"])
        assert row["throughput_base"] == pytest.approx(32e3 / row["latency_b32_base_ms"])
        assert row["step_time_s"] > 0
        assert (row["reg_time_s"] is not None) == (row["regularizer"] is not None)


def test_activations_are_those_of_one_forward_pass(store, rows):
    from raybench.pipeline.activations import peak_activations
    from raybench.pipeline.artifact import load_pruned

    for row in rows[::5]:
        model = load_pruned(store / row["artifact"])
        assert peak_activations(model, torch.zeros(1, 1, 8, 8)) == row["activations"] < row["activations_base"]


def test_methods_keep_different_channels(rows):
    kept = {row["method"]: row["kept"] for row in rows if row["model"] == "test-convnet" and row["speedup_target"] == 2}
    assert len(set(kept.values())) == len(kept) == 4


def test_layers_tell_the_widths_of_the_pruned_network(rows):
    row = next(r for r in rows if r["model"] == "test-convnet" and r["method"] == "magnitude-l1")
    kept = json.loads(row["kept"])
    conv3 = next(layer for layer in row["layers"] if layer["layer"] == "conv3")
    assert conv3["out_before"] == 16
    assert conv3["out_after"] == len(kept["conv3"])
    linear = next(layer for layer in row["layers"] if layer["layer"] == "linear")
    assert linear["in_after"] == conv3["out_after"]
    assert linear["out_after"] == linear["out_before"] == 10


def test_the_network_taken_home_has_the_macs_and_the_accuracy_of_its_row(store, rows):
    from raybench.datasets.open import open_dataset
    from raybench.pipeline.artifact import load_pruned
    from raybench.tasks.classification import Classification

    task = Classification(open_dataset("digits", {}, None), torch.device("cpu"))
    for row in rows[::5]:
        model = load_pruned(store / row["artifact"])
        assert count_macs(model, torch.zeros(1, 1, 8, 8)) == row["macs"]
        assert sum(p.numel() for p in model.parameters()) == row["params"]
        assert task.evaluate(model, "test")["top1"] == row["metric_final"]


def test_shared_stages_ran_once_and_nothing_is_left_over(store):
    storage = open_storage(str(store))
    runs = [(entry["kind"], entry["key"], entry["status"]) for entry in read_journal(storage)]
    assert len(runs) == len(set(runs))
    counts = {kind: sum(k == kind for k, _, _ in runs) for kind in ("base", "sparsify", "select", "cell")}
    assert counts == {"base": 2, "sparsify": 3, "select": 7, "cell": 14}
    assert storage.list("checkpoints/") == []
    assert storage.list("leases/") == []


def test_a_second_run_has_nothing_to_do_and_a_new_method_runs_only_its_own_cells(store, tmp_path, capsys):
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(SWEEP)
    assert main(["run", str(sweep), "--local", "--storage", str(store)]) == 0
    before = len(list(Path(store, "journal").iterdir()))
    sweep.write_text(SWEEP.replace("magnitude-l1,", "magnitude-l1, magnitude-l2,"))
    capsys.readouterr()
    assert main(["plan", str(sweep), "--storage", str(store), "--format", "json"]) == 0
    planned = [cell for cell in json.loads(capsys.readouterr().out)["cells"] if cell["status"] == "planned"]
    assert {cell["method"] for cell in planned} == {"magnitude-l2"}
    assert len(planned) == 4
    assert len(list(Path(store, "journal").iterdir())) == before


def test_a_cut_does_not_depend_on_the_other_speed_ups_asked_for(store, rows, tmp_path):
    sweep = tmp_path / "one.yaml"
    sweep.write_text(SWEEP.replace("[1.5, 2]", "[2]").replace("[test-convnet, test-vit]", "test-convnet"))
    assert main(["run", str(sweep), "--local", "--storage", str(tmp_path / "store")]) == 0
    alone = Store(open_storage(str(tmp_path / "store"))).table().to_pylist()
    same = ("trial_id", "kept", "macs", "metric_pruned", "metric_final", "base_sha256")
    expected = {row["trial_id"]: [row[name] for name in same] for row in rows}
    assert len(alone) == 4
    for row in alone:
        assert [row[name] for name in same] == expected[row["trial_id"]]
