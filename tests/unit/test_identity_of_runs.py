"""One id, one number: however a cell is run, and whatever ran before it in the process."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import raybench
from raybench import registry
from raybench.cli.main import main
from raybench.results.columns import TIMINGS
from raybench.results.merging import merge
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.resolve import resolve
from tests.unit.sweeps import written

SWEEP = """
name: s
datasets: digits
models: test-convnet
methods: {methods}
speedups: 2
seeds: {seeds}
recipe:
  base: {{epochs: 2, batch_size: 64, lr: 0.1}}
  sparsify: {{epochs: 1, batch_size: 64, lr: 0.1}}
  finetune: {{epochs: 2, batch_size: 64, lr: 0.1}}
{more}
"""
METHOD = """
import torch
import torch.nn.functional as F
from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance


@importance("{name}")
class Mine(ElementwiseImportance):
    def saliency(self, layer):
        {does}
        return layer.weight.abs()
"""
NOT_NUMBERS = {column.name for column in TIMINGS} | {"provenance", "trial", "config_id", "artifact", "row_sha256"}


def run(folder: Path, methods: str = "taylor", seeds: str = "0", more: str = "", **how):
    """(how the run ended, its rows by method and seed)."""
    folder.mkdir(exist_ok=True)
    file = written(folder, SWEEP.format(methods=methods, seeds=seeds, more=more))
    end = raybench.run_sweep(file, folder / "store", local=True, **how)
    return end, {(row["method"], row["seed"]): row for row in rows_of(folder / "store")}


def rows_of(folder: Path) -> list[dict]:
    return Store(open_storage(str(folder))).table().to_pylist()


def numbers(row) -> dict[str, str]:
    return {
        name: str(value) for name, value in row.items() if name not in NOT_NUMBERS and not name.startswith("seconds")
    }


def test_threads_make_other_cells_and_are_what_the_row_was_computed_with(tmp_path):
    _, one = run(tmp_path / "one")
    _, two = run(tmp_path / "two", more="resources: {cpus: 2}")
    _, fixed = run(tmp_path / "fixed", more="resources: {cpus: 2}\nthreads: 1")
    key = ("taylor", 0)
    assert one[key]["trial_id"] == fixed[key]["trial_id"] != two[key]["trial_id"]
    assert numbers(one[key]) == numbers(fixed[key])
    assert [rows[key]["provenance"]["threads"] for rows in (one, two, fixed)] == [1, 2, 1]


def test_what_show_prints_makes_the_row_of_prune_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["prune", "--model", "test-convnet", "--dataset", "digits", "--method", "taylor", "--speedup", "2",
               "--recipe", str(recipe(tmp_path)), "--format", "json", "-o", "pruned"]  # fmt: skip
    assert main(command) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert main(["show", first["trial_id"], "--results", "pruned", "--format", "yaml"]) == 0
    text = capsys.readouterr().out
    assert "device: cpu" in text
    assert "threads: " in text
    (tmp_path / "cell.yaml").write_text(text)
    assert main(["run", "cell.yaml", "--local", "--storage", "again"]) == 0
    (row,), (again,) = rows_of(tmp_path / "pruned"), rows_of(tmp_path / "again")
    assert row["trial_id"] == again["trial_id"]
    assert numbers(row) == numbers(again)


def recipe(folder: Path) -> Path:
    stage = "{epochs: 2, batch_size: 64, lr: 0.1}"
    file = folder / "short.yaml"
    file.write_text(f"base: {stage}\nsparsify: {stage}\nfinetune: {stage}\n")
    return file


@pytest.mark.parametrize(
    "does",
    [
        "torch.backends.mkldnn.enabled = False",
        "torch.set_default_dtype(torch.float64)",
        "torch.set_num_threads(2)",
        "torch.set_autocast_enabled('cpu', True)",
        "torch.set_flush_denormal(True)",
        "torch.manual_seed(7)",
    ],
)
def test_a_switch_that_a_plug_in_leaves_turned_changes_no_other_cell(does, tmp_path):
    _, alone = run(tmp_path / "alone", "lamp")
    plugin = tmp_path / "mine.py"
    plugin.write_text(METHOD.format(name=f"mine{abs(hash(does)) % 1000}", does=does))
    name = plugin.read_text().partition('@importance("')[2].partition('"')[0]
    end, beside = run(tmp_path / "beside", f"[{name}, lamp]", plugins=[plugin])
    assert set(end.statuses.values()) == {"ok"}
    assert numbers(beside["lamp", 0]) == numbers(alone["lamp", 0])


def test_a_plug_in_that_replaces_a_library_function_is_a_failed_cell_and_harms_no_other(tmp_path):
    _, alone = run(tmp_path / "alone", "lamp")
    plugin = tmp_path / "mine.py"
    plugin.write_text(METHOD.format(name="patcher", does="F.relu = lambda x, inplace=False: x"))
    end, beside = run(tmp_path / "beside", "[patcher, lamp]", plugins=[plugin])
    assert sorted(end.statuses.values()) == ["failed", "ok"]
    assert "torch.nn.functional.relu was replaced" in beside["patcher", 0]["error_message"]
    assert numbers(beside["lamp", 0]) == numbers(alone["lamp", 0])


def test_a_selection_by_weights_alone_is_made_once_for_all_seeds(tmp_path):
    end, rows = run(tmp_path / "seeds", "[magnitude-l2, random]", "[0, 1, 2]")
    assert set(end.statuses.values()) == {"ok"}
    assert len({str(rows["magnitude-l2", seed]["kept"]) for seed in range(3)}) == 1
    assert len({str(rows["random", seed]["kept"]) for seed in range(3)}) > 1
    selections = [key for key in end.outcomes if end.outcomes[key].kind == "select"]
    assert len(selections) == 1 + 3


CALLERS = {  # what the process did before: (set, put back)
    "dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    "grad": (lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True)),
    "matmul": (
        lambda: torch.set_float32_matmul_precision("medium"), lambda: torch.set_float32_matmul_precision("highest")
    ),
    "mkldnn": (
        lambda: setattr(torch.backends.mkldnn, "enabled", False),
        lambda: setattr(torch.backends.mkldnn, "enabled", True),
    ),
    "autocast": (
        lambda: torch.set_autocast_enabled("cpu", True), lambda: torch.set_autocast_enabled("cpu", False)
    ),
    "seeds": (lambda: (torch.manual_seed(7), np.random.seed(7), random.seed(7)), lambda: None),
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return numbers(run(tmp_path_factory.mktemp("alone"), "lamp")[1]["lamp", 0])


@pytest.mark.parametrize("what", CALLERS)
def test_what_the_calling_process_has_set_changes_no_number(what, alone, tmp_path):
    put, back = CALLERS[what]
    try:
        put()
        _, rows = run(tmp_path, "lamp")
    finally:
        back()
    assert numbers(rows["lamp", 0]) == alone


def test_locale_time_zone_hash_seed_folder_and_thread_variables_change_no_number(alone, tmp_path):
    file = written(tmp_path, SWEEP.format(methods="lamp", seeds="0", more=""))
    command = [sys.executable, "-m", "raybench", "run", str(file), "--local", "--storage", str(tmp_path / "store")]
    own = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "2"}
    env = os.environ | own | {"MKL_NUM_THREADS": "2"}
    subprocess.run(command, check=True, capture_output=True, env=env, cwd=tmp_path)
    assert numbers(rows_of(tmp_path / "store")[0]) == alone


def test_what_a_plug_in_sets_when_it_is_imported_reaches_none_of_its_units(tmp_path):
    rows = {}
    for where, seeds in (("first", "0"), ("both", "[1, 0]")):
        plugin = tmp_path / f"{where}.py"
        top = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.backends.mkldnn.enabled = False\n"
        plugin.write_text(METHOD.format(name=f"sets-{where}", does="pass") + top)
        _, found = run(tmp_path / where, f"sets-{where}", seeds, plugins=[plugin])
        rows[where] = numbers(found[f"sets-{where}", 0])
    _, plain = run(tmp_path / "plain", "magnitude-l1")
    for where in rows:
        assert rows[where]["base_sha256"] == numbers(plain["magnitude-l1", 0])["base_sha256"]
        assert rows[where]["metric_final"] == numbers(plain["magnitude-l1", 0])["metric_final"]


def test_what_a_model_s_module_sets_when_it_is_imported_reaches_none_of_its_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = "from torch import nn\ndef net(num_classes):\n    conv = nn.Conv2d(1, 8, 3)\n    return nn.Sequential(conv, "
    net += "nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    rows = []
    for name, top in (("quiet_net", ""), ("loud_net", "import torch\ntorch.set_default_dtype(torch.float64)\n")):
        (tmp_path / f"{name}.py").write_text(top + net)
        text = SWEEP.format(methods="lamp", seeds="0", more="").replace("test-convnet", f"{name}:net")
        raybench.run_sweep(written(tmp_path, text), tmp_path / name, local=True)
        rows.append(numbers(rows_of(tmp_path / name)[0]))
    assert torch.get_default_dtype() == torch.float32, "nor does it stay in the caller's process"
    assert rows[0]["status"] == "ok"
    assert rows[0]["metric_base"] == rows[1]["metric_base"]
    assert rows[0]["curve"] == rows[1]["curve"]


def test_an_edited_plug_in_and_other_weights_are_other_ids(tmp_path):
    plugin = tmp_path / "mine.py"
    ids = []
    for does in ("pass", "pass  # edited"):
        plugin.write_text(METHOD.format(name="edited", does=does))
        registry.importance._entries = None  # a new process reads it anew
        registry.add_plugin(plugin)
        sweep = raybench.load_sweep(written(tmp_path, SWEEP.format(methods="edited", seeds="0", more="")))
        ids.append(resolve(sweep)[0].trial_id)
    assert len(set(ids)) == 2


def test_an_edited_helper_of_a_plug_in_is_another_id(tmp_path, monkeypatch):
    """A module that the plug-in imports, beside it, and one that this module imports."""
    monkeypatch.chdir(tmp_path)
    plugin, helper, deeper = (tmp_path / name for name in ("mine.py", "its_helper.py", "its_deeper.py"))
    plugin.write_text("import its_helper\n" + METHOD.format(name="helped", does="pass"))
    registry.importance._entries = None
    registry.add_plugin(plugin)

    def trial_id():
        sweep = raybench.load_sweep(written(tmp_path, SWEEP.format(methods="helped", seeds="0", more="")))
        return resolve(sweep)[0].trial_id

    ids = [trial_id()]  # the helper is missing: running it will say so
    for file, content in [(helper, "import its_deeper"), (deeper, "A = 1"), (deeper, "A = 2"), (helper, "A = 1")]:
        file.write_text(content)
        ids.append(trial_id())
    assert len(set(ids)) == 5


def test_an_edited_recipe_is_another_id_and_an_extended_sweep_the_same(tmp_path):
    recipe, stage = tmp_path / "mine.yaml", "{epochs: 1, batch_size: 64, lr: 0.1}"
    sweep = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: lamp\nspeedups: {}\nrecipe: {}\n"
    ids = []
    for finetune, speedups in ((1, "2"), (2, "2"), (2, "[4, 2]")):
        tuned = stage.replace("epochs: 1", f"epochs: {finetune}")
        recipe.write_text(f"name: mine\nbase: {stage}\nsparsify: {stage}\nfinetune: {tuned}\n")
        trials = resolve(raybench.load_sweep(written(tmp_path, sweep.format(speedups, recipe))))
        ids.append(next(trial.trial_id for trial in trials if trial.speedup == 2))
    assert ids[0] != ids[1] == ids[2]


def test_merging_a_store_with_another_row_for_the_same_id_keeps_one_and_says_so(tmp_path):
    from tests.unit.result_rows import row

    mine, theirs = (Store(open_storage(str(tmp_path / name))) for name in ("mine", "theirs"))
    mine.publish(row())
    theirs.publish(row(metric_final=50.0))
    found = merge(mine, theirs)
    assert found.differing == (row()["trial_id"],)
    assert mine.table(["metric_final"])["metric_final"].to_pylist() == [97.0]
