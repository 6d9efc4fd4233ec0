"""Whole cells of the criteria that refit what is left: the row, the network taken home and the next step see it."""

from __future__ import annotations

import json

import pytest
import torch

import raybench
from raybench import registry
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.storage.open import open_storage
from tests.pruning_nets import small_resnet

SWEEP = """
name: refits
models: test-convnet
datasets: digits
methods:
  - cp
  - thinet
  - {name: cp, params: {reconstruct: false}}
  - {name: thinet, params: {reconstruct: false}}
  - {name: magnitude-l2, params: {repair: [none, ridge]}}
speedups: 3
recipe:
  base: {epochs: 4, batch_size: 64, optimizer: adamw, lr: 0.004, weight_decay: 0.05}
  sparsify: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}
  finetune: {epochs: 0, batch_size: 64, lr: 0.001}
  calibration_images: 64
"""


def test_a_refitted_cell_loses_less_than_one_that_is_only_cut(tmp_path, capsys):
    (tmp_path / "refits.yaml").write_text(SWEEP)
    assert main(["run", str(tmp_path / "refits.yaml"), "--local", "--storage", str(tmp_path / "store")]) == 0
    rows = Store(open_storage(str(tmp_path / "store"))).table().to_pylist()
    found = {(row["importance"], '"reconstruct":true' in row["trial"] or "repair" in row["trial"]): row for row in rows}
    assert len(found) == len(rows) == 6
    for name in ("cp", "thinet", "magnitude-l2"):
        refitted, plain = (found[name, on]["metric_pruned"] for on in (True, False))
        assert refitted > plain + 5

    capsys.readouterr()
    assert main(["leaderboard", str(tmp_path / "store")]) == 0
    assert "magnitude-l2(repair=ridge)" in capsys.readouterr().out


def test_the_option_is_spelt_as_a_parameter_and_no_id_has_it_where_it_is_none(tmp_path, capsys):
    sweep = tmp_path / "repairs.yaml"
    texts = ["lamp", "lamp(repair=none)", "lamp(repair=ridge)", "lamp(repair=rigde)", "lamp(repare=ridge)"]
    found = []
    for text in texts:
        sweep.write_text(SWEEP[: SWEEP.index("methods:")] + f"methods: ['{text}']\n" + SWEEP[SWEEP.index("speedups") :])
        code = main(["plan", str(sweep), "--format", "json"])
        printed = capsys.readouterr()
        found.append(json.loads(printed.out)["cells"][0]["trial_id"] if code == 0 else printed.err)
    assert found[0] == found[1] != found[2]
    assert "found 'rigde', expected 'none' or 'ridge'" in found[3]
    assert "Did you mean 'repair'?" in found[4]


def test_a_network_in_memory_is_repaired():
    model = small_resnet().eval()
    torch.manual_seed(0)
    images = torch.randn(32, 3, 16, 16)
    data = (images, torch.arange(32) % 10)
    plain = raybench.prune(model, images[:1], 2.0, "lamp").model
    mended = raybench.prune(model, images[:1], 2.0, "lamp", params={"repair": "ridge"}, calibration=data).model
    with torch.no_grad():
        whole, cut, better = (net.eval()(images) for net in (model, plain, mended))
    assert (better - whole).norm() < (cut - whole).norm()
    with pytest.raises(UserError, match="needs activations: give calibration="):
        raybench.prune(model, images[:1], 2.0, "lamp", params={"repair": "ridge"})


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_the_iterative_schedule_scores_what_was_refitted(name):
    """The cut follows from scores alone, so only refits between the steps can make another one of it."""
    model = small_resnet()
    torch.manual_seed(0)
    images = torch.randn(16, 3, 16, 16)
    calibration, groups = Calibration(images, torch.arange(16) % 10, 8), trace(model, images[:1])
    criteria = (registry.importance.load(name)(reconstruct=on) for on in (True, False))
    refitted, plain = (
        select(Scoring(one, model, calibration), images[:1], groups, [2.0], schedule="iterative")[2.0].kept
        for one in criteria
    )
    assert refitted != plain
