"""Rows and early stopping by hand: what a stopped cell's row holds, who decides where, and what lies in the storage."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench.pipeline import early_stop, row
from raybench.pipeline.cut import Pruned
from raybench.pipeline.early_stop import Decision, StoppedEarly, board_key
from raybench.pipeline.measure import Footprint
from raybench.pipeline.row import CutResults
from raybench.selection.records import Cut
from raybench.storage.local import LocalStorage
from raybench.sweep.digests import digest
from raybench.sweep.early_stop import EarlyStop
from tests.kept import Kept
from tests.unit.result_rows import RECIPE, trial

CPU = torch.device("cpu")
CUT = Cut({"a": (0, 2)}, 2.0, 1.9, 1000, 526, 300, 170, 1100, 580, "granularity", 7)


def test_the_row_of_a_stopped_cell_is_what_was_known_then() -> None:
    known = CutResults(
        metric="top1", dense=SimpleNamespace(metrics={"top1": 90.0}, curve=({"epoch": 1.0, "lr": 0.1, "train_loss": 2.0,
        "top1": 80.0},), seconds=11.0, sha256="ab"), sparse=None,
        selection=SimpleNamespace(cut=CUT, step_time_s=0.25, seconds=13.0),
        pruned=Pruned(nn.Identity(), {"a": ((8, 3), (2, 3))}), after_cut={"top1": 60.0}, recalibrated=None,
        seconds={"prune": 1.0, "finetune": 2.0}, started_at="2026-01-02T03:04:05Z", device=CPU,
    )  # fmt: skip
    curve = ({"epoch": 1, "lr": 0.2, "train_loss": 1.0, "top1": 61.0},)
    one = trial()
    found = dict(row.stopped_row(one, known, StoppedEarly(1, 4, Decision(61.0, 75.0), curve)))
    expected = {
        "trial_id": one.trial_id, "status": "skipped", "reason": "stopped at epoch 1 of 4 (early_stop)",
        "metric_val": 61.0, "stopped_epoch": 1, "stopped_below": 75.0, "speedup": 1.9, "macs_base": 1000, "macs": 526,
        "macs_tp_base": 1100, "macs_tp": 580, "params_base": 300, "params": 170, "metric_name": "top1",
        "metric_base": 90.0, "metric_pruned": 60.0, "metric_recalibrated": None, "metric_final": None, "steps": 7,
        "step_time_s": 0.25, "reg_time_s": None, "seconds_base": 11.0, "seconds_sparsify": None,
        "seconds_select": 13.0, "seconds_prune": 1.0, "seconds_finetune": 2.0, "seconds_measure": None,
        "device": "cpu", "base_sha256": "ab", "artifact": None, "latency_ms": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert [tuple(epoch.values()) for epoch in found["curve"]] == [
        ("base", 1, 0.1, 2.0, 80.0), ("finetune", 1, 0.2, 1.0, 61.0),
    ]  # fmt: skip
    assert found["provenance"]["started_at"] == "2026-01-02T03:04:05Z"


def test_provenance_names_the_gpu(monkeypatch) -> None:
    asked, device = [], torch.device("cuda", 1)
    monkeypatch.setattr(row, "provenance", lambda **facts: asked.append(facts) or "provenance")
    monkeypatch.setattr(torch.cuda, "get_device_name", {device: "a GPU"}.get)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    stages = SimpleNamespace(device=device, started_at="then")
    assert row._provenance(stages) == "provenance"
    assert row._provenance(SimpleNamespace(device=CPU, started_at="then")) == "provenance"
    same = {
        "started_at": "then", "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    assert asked == [same | {"device_name": "a GPU", "cuda": "12.9"}, same | {"device_name": None, "cuda": None}]


@pytest.mark.parametrize(("ms", "images"), [(None, None), (64.0, 500.0), (1.0, 32_000.0)])
def test_images_a_second(ms, images) -> None:
    assert row._throughput(ms) == images


def test_reasons_of_missing_timings_are_named_once() -> None:
    def reason(*of):
        first, second, third = of
        footprint = Footprint(1, 1, None, None, first, None, None, None)
        sparse = SimpleNamespace(timing_reason=third) if third != "none" else None
        stages = SimpleNamespace(footprint=footprint, selection=SimpleNamespace(timing_reason=second), sparse=sparse)
        return row._timing_reason(stages)

    assert reason("b", "a", "b") == "a; b"
    assert reason(None, "a", None) == reason("a", None, "none") == reason(None, None, "a") == "a"
    assert reason(None, None, "none") is None


ASHA = RECIPE.model_copy(update={"early_stop": EarlyStop(grace_period=1, reduction_factor=2)})


def rungs_of(storage, **fields) -> early_stop.Rungs:
    return early_stop.Rungs(Kept(), storage, trial(recipe=ASHA, **fields), "top1")


def test_a_board_is_what_differs_in_the_method_alone() -> None:
    one = trial(recipe=ASHA)
    own = {name: text for name, text in one.id_fields.items() if name not in ("importance", "regularizer", "schedule")}
    assert board_key(one) == digest("board", 1, own, one.base_identity)
    same = trial(recipe=ASHA, importance="random", regularizer="group-norm", schedule="one-shot")
    assert board_key(same) == board_key(one)
    for other in ({"seed": 1}, {"base_seed": 1}, {"strategy": "local"}, {"speedup": 3.0}, {"round_to": 2}):
        assert board_key(trial(recipe=ASHA, **other)) != board_key(one)


def test_a_decision_is_one_file_with_its_checksum(tmp_path) -> None:
    storage = LocalStorage(tmp_path)
    first, second = trial(recipe=ASHA), trial(recipe=ASHA, importance="random")
    curve = [{"epoch": 1, "top1": 40.0}]
    rungs_of(storage).save({"epoch": 1, "curve": curve})
    with pytest.raises(StoppedEarly) as caught:
        rungs_of(storage, importance="random").save({"epoch": 1, "curve": [{"epoch": 1, "top1": 30.0}]})
    assert (caught.value.epoch, caught.value.decision, caught.value.curve) == (
        1, Decision(30.0, 40.0), ({"epoch": 1, "top1": 30.0},),
    )  # fmt: skip
    assert str(caught.value) == "stopped at epoch 1 of 2 (early_stop)"
    folder = f"rungs/{board_key(first)}/1"
    assert storage.list("rungs/") == sorted(f"{folder}/{one.trial_id}.json" for one in (first, second))
    files = [json.loads(storage.read(f"{folder}/{one.trial_id}.json")) for one in (first, second)]
    assert [{name: one[name] for name in ("value", "bar")} for one in files] == [
        {"value": 40.0, "bar": None}, {"value": 30.0, "bar": 40.0},
    ]  # fmt: skip
    assert [set(one) for one in files] == [{"value", "bar", "sha256"}] * 2


def test_a_damaged_decision_is_made_again(tmp_path) -> None:
    storage, one = LocalStorage(tmp_path), trial(recipe=ASHA)
    key = f"rungs/{board_key(one)}/1/{one.trial_id}.json"
    storage.create(key, b'{"value": 1.0, "bar": 2.0, "sha256": "0"}')
    with pytest.warns(UserWarning, match="its content is not what was written, so it is decided again"):
        rungs_of(storage).save({"epoch": 1, "curve": [{"epoch": 1, "top1": 40.0}]})
    assert json.loads(storage.read(key))["value"] == 40.0


def test_the_best_epoch_so_far_is_compared_at_rungs_alone(tmp_path) -> None:
    storage = LocalStorage(tmp_path)
    rungs = rungs_of(storage)
    rungs.save({"epoch": 2, "curve": [{"epoch": 1, "top1": 50.0}, {"epoch": 2, "top1": 40.0}]})
    assert not storage.list("rungs/")
    assert rungs.load()["epoch"] == 2
    rungs.save({"epoch": 1, "curve": [{"epoch": 1, "top1": 50.0}, {"epoch": 2, "top1": 40.0}]})
    (key,) = storage.list("rungs/")
    assert json.loads(storage.read(key))["value"] == 50.0
    assert rungs_of(storage, seed=1).load() is None


def test_methods_are_compared_by_name() -> None:
    assert early_stop.METHOD == ("importance", "regularizer", "schedule")
    assert not Decision(1.0, 1.0).stops
    assert Decision(1.0, 1.1).stops
    assert not Decision(1.0, None).stops
