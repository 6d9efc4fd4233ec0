"""Baselines: uniform widths, and the pruned architecture trained from new weights."""

import json

import numpy as np
import pytest
import torch

from raybench import registry
from raybench.cli.main import main
from raybench.groups.trace import trace
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.storage.open import open_storage
from tests.pruning_nets import Grouped, small_resnet, small_vit
from tests.unit.cuts import IMAGE

SWEEP = """
name: scratch
models: {model}
datasets: digits
methods: [magnitude-l2, magnitude-l2(train=scratch), 'magnitude-l2(train=finetune)']
speedups: 2
seeds: {seeds}
recipe:
  base: {{epochs: {epochs}, batch_size: 64, optimizer: adamw, lr: 0.004, weight_decay: 0.05}}
  finetune: {{epochs: 1, batch_size: 64, lr: 0.001}}
"""


@pytest.mark.parametrize("strategy", ["global", "protected-global", "local", "isomorphic"])
@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_uniform_widths_are_one_share_of_every_group(make, strategy):
    model = make().eval()
    groups = trace(model, IMAGE)
    cut = select(
        Scoring(registry.importance.load("uniform")(), model, seed=3), IMAGE, groups, [2.0], strategy=strategy
    )[2.0]
    shares = np.array([len(cut.kept[group.name]) / group.size for group in groups])
    steps = np.array([1 / group.size for group in groups])
    share = np.median(shares)
    assert (np.abs(shares - share) <= np.maximum(1.6 * steps, 0.07)).all()  # what the exact end adds or takes
    assert 0.5 < share < 0.9


@pytest.mark.parametrize("make", [small_resnet, small_vit, Grouped])
def test_uniform_scores_are_evenly_spaced(make):
    model = make().eval()
    groups = trace(model, IMAGE)
    for group, scores in zip(
        groups, Scoring(registry.importance.load("uniform")(), model).scorer(groups).scores(), strict=True
    ):
        np.testing.assert_allclose(np.sort(scores), np.arange(1, group.size + 1) / group.size)


def test_which_units_stay_depends_on_the_seed():
    model = small_resnet().eval()
    groups = trace(model, IMAGE)
    first, again, other = (
        select(Scoring(registry.importance.load("uniform")(), model, seed=seed), IMAGE, groups, [2.0])[2.0].kept
        for seed in (0, 0, 1)
    )
    assert first == again != other


def rows_of(folder):
    return Store(open_storage(str(folder))).table().to_pylist()


def test_scratch_trains_the_same_architecture_from_new_weights(tmp_path):
    file = tmp_path / "scratch.yaml"
    file.write_text(SWEEP.format(model="test-convnet", epochs=3, seeds=0))
    assert main(["run", str(file), "--local", "--storage", str(tmp_path / "store")]) == 0
    rows = {"scratch" in row["trial"]: row for row in rows_of(tmp_path / "store")}
    assert len(rows) == len(rows_of(tmp_path / "store")) == 2, "train=finetune is what is done anyway"
    plain, scratch = rows[False], rows[True]
    assert scratch["layers"] == plain["layers"]
    assert [len([e for e in row["curve"] if e["stage"] == "finetune"]) for row in (plain, scratch)] == [1, 3]
    assert scratch["metric_pruned"] < 30 < plain["metric_base"]  # ten classes, nothing trained yet
    assert scratch["metric_final"] > 60


def ids(tmp_path, capsys, epochs, weights, seeds=0):
    file = tmp_path / f"ids{epochs}.yaml"
    model = f"{{name: test-convnet, weights: {weights}}}" if weights else "test-convnet"
    file.write_text(SWEEP.format(model=model, epochs=epochs, seeds=seeds))
    assert main(["plan", str(file), "--format", "json"]) == 0
    return [cell["trial_id"] for cell in json.loads(capsys.readouterr().out)["cells"]]


def test_the_recipe_of_the_base_is_in_the_id_of_a_cell_that_trains_by_it(tmp_path, capsys):
    file = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(1)}, file)
    three, four = (ids(tmp_path, capsys, epochs, file) for epochs in (3, 4))
    assert three[0] == four[0], "given weights: the base isn't trained"
    assert three[1] != four[1]
