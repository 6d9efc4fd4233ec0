"""One id, one number: however a cell is run, and whatever ran before it in the process."""

import json
from pathlib import Path

import pytest

import raybench
from raybench.cli.main import main
from raybench.results.columns import TIMINGS
from raybench.results.store import Store
from raybench.storage.open import open_storage
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
