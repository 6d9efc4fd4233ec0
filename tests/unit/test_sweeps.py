"""The sweeps that come with raybench: read, resolved and planned, with the counts that they promise."""

import json
from collections import Counter
from pathlib import Path

import pytest

from raybench.cli.main import main
from raybench.plan.plan import plan
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # cells: 2 networks x 6 methods x 2 speed-ups x 2 seeds, and 2 methods for the ResNet alone;
        # criteria that look at weights alone are selected once for both seeds: 3 on the ResNet, 2 on the ViT
        ("quickstart", {"base": 2, "sparsify": 2 * 2 + 2, "select": 28 - 5, "cell": 48 + 8}),
        # 12 criteria and 5 pairs x 3 speed-ups x 3 seeds
        ("methods-digits", {"base": 1, "sparsify": 4 * 3, "select": 17 * 3 - 5 * 2, "cell": 17 * 3 * 3}),
        # 3 networks x 17 rows x 3 speed-ups x 3 strategies
        ("paper-cifar100", {"base": 3, "sparsify": 3 * 5, "select": 3 * 17 * 3, "cell": 459}),
        # 2 networks x 17 rows x 3 speed-ups, and ViT-small x 12 rows x 3
        ("paper-imagenet", {"base": 3, "sparsify": 2 * 5 + 3, "select": 2 * 17 + 12, "cell": 102 + 36}),
        # YOLOv8m x 16 rows x 3 speed-ups
        ("paper-coco", {"base": 1, "sparsify": 5, "select": 16, "cell": 48}),
        # ResNet-56 x (2 criteria and 3 pairs), VGG-19 x (1 and 1), three seeds
        ("acceptance-cifar", {"base": 2, "sparsify": (3 + 1) * 3, "select": 7 * 3 - 3 * 2, "cell": 7 * 3}),
        # ResNet-20 x 13 methods and an optimal one x 2 speed-ups x 3 seeds, with other targets 3 + 1;
        # ViT x 3 methods x 2 strategies x 2 x 3 and 4 token reducers x 2 x 3, ConvNeXt x 2 x 2 x 3;
        # magnitude-l2 and lookahead without a repair are selected once for all seeds: 3 on the ResNet
        ("extended-digits", {"base": 3, "sparsify": 24, "select": 66, "cell": 160}),
        # 3 transfers x 2 criteria x 2 seeds, from digits and from new weights; magnitude-l2 is selected once
        ("transfer-digits-cifar", {"base": 3, "select": 3 * (2 + 1), "cell": 12}),
        # a DeiT and a ConvNeXt x 2 criteria x 3 strategies
        ("isomorphic-imagenet", {"base": 2, "select": 12, "cell": 12}),
        # YOLOv8n x (7 criteria and 2 pairs) x 2 speed-ups
        ("detection-digits", {"base": 1, "sparsify": 2, "select": 9, "cell": 18}),
    ],
)
def test_a_sweep_has_the_cells_and_shared_stages_that_it_promises(name, counts):
    planned = plan(load_sweep(SWEEPS / f"{name}.yaml"))
    assert Counter(unit.kind for unit in planned.units) == counts
    assert planned.skips == ()


def test_the_paper_gives_a_transformer_nine_criteria_and_three_pairs():
    trials = plan(load_sweep(SWEEPS / "paper-imagenet.yaml")).trials
    methods = {trial.method for trial in trials if trial.model == "vit-small"}
    assert sum("+" not in method for method in methods) == 9
    assert {method for method in methods if "+" in method} == {
        "magnitude-l2+growing-reg", "magnitude-l2+group-lasso", "magnitude-l2+group-norm",
    }  # fmt: skip
    assert {trial.recipe.name for trial in trials if trial.model == "vit-small"} == {"paper-vit"}


def test_the_plan_tells_gpu_hours_from_another_storage(monkeypatch, tmp_path, capsys):
    (tmp_path / "pilot").mkdir()
    (tmp_path / "empty").mkdir()

    def timings(store):
        return {("cell", "imagenet", "resnet18", "pilot"): 7200.0} if "pilot" in store.storage.url else {}

    monkeypatch.setattr(Store, "timings", timings)
    monkeypatch.setattr(Store, "statuses", lambda store: {"0" * 16: "ok"} if "pilot" in store.storage.url else {})
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    command = ["plan", str(SWEEPS / "paper-imagenet.yaml"), "--storage", str(tmp_path / "new"), "--timings"]
    assert main([*command, str(tmp_path / "pilot"), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"]["planned"] == 138
    assert printed["cost"]["gpu_hours"] == pytest.approx(51 * 2)  # resnet18's 51 cells of two hours on one GPU each
    assert printed["cost"]["unknown"]["cell"] == 138 - 51
    assert main([*command, str(tmp_path / "pilot")]) == 0
    assert "102 GPU-hours" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "empty")]) == 2
    assert "found no finished cells" in capsys.readouterr().err


def test_gpu_hours_are_told_when_a_pilot_was_timed(monkeypatch, tmp_path):
    timed = {("base", "cifar100", "cifar-resnet18", "pilot"): 3600.0}
    monkeypatch.setattr(Store, "timings", lambda self: timed)
    monkeypatch.setattr(Store, "statuses", lambda self: {"0" * 16: "ok"})
    cost = plan(load_sweep(SWEEPS / "paper-cifar100.yaml"), LocalStorage(tmp_path)).cost
    assert cost.gpu_hours == pytest.approx(0.5)  # half a device a cell
    assert cost.unknown == {"base": 2, "sparsify": 15, "select": 153, "cell": 459}
