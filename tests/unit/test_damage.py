"""Damage is never a number: what is damaged is set aside by name, and the same command ends as if nothing had been."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from raybench.cli.main import main
from raybench.execution.driver import Watcher
from raybench.execution.run import run_sweep
from raybench.results.store import Store
from raybench.storage import sealed
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.damage import DamageWarning
from raybench.storage.open import open_storage

SWEEP = """
name: tiny
models: test-convnet
datasets: digits
methods: magnitude-l2+group-norm
speedups: [2]
recipe:
  base: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.004}
  sparsify: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}
  finetune: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.003}
"""
NUMBERS = ("trial_id", "metric_base", "metric_pruned", "metric_final", "macs", "params", "kept", "base_sha256", "curve")


class Said(Watcher):
    """What a run says, in order."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(the sweep's file, a storage in which it was run)."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "tiny.yaml").write_text(SWEEP)
    assert set(run_sweep(folder / "tiny.yaml", folder / "store", local=True).statuses.values()) == {"ok"}
    return folder / "tiny.yaml", folder / "store"


@pytest.fixture
def copy(sweep, tmp_path):
    """The storage of the sweep, to damage."""
    return shutil.copytree(sweep[1], tmp_path / "store")


def numbers(storage):
    rows = Store(open_storage(storage)).table(NUMBERS).to_pylist()
    return sorted(rows, key=lambda row: row["trial_id"])


def again(sweep, storage):
    """The lines about damage of another run, which must end ok with the numbers of the first."""
    said = Said()
    end = run_sweep(sweep[0], storage, local=True, watcher=said)
    assert set(end.statuses.values()) == {"ok"}
    assert numbers(storage) == numbers(sweep[1])
    assert not Store(open_storage(storage)).listing("results/attempts"), "no cell failed"
    return [line for line in said.lines if "damaged" in line]


def forget(storage):
    """Remove the cells, so that they run again and read their stages; the networks that they made, too."""
    for name in ("results", "artifacts"):
        shutil.rmtree(Path(storage, name))


def stage(storage, *, kind):
    """The folder of the base, of the sparsified network or of one of the cuts."""
    (row,) = Store(open_storage(storage)).table().to_pylist()
    return Path(storage, "stages", row[f"{kind}_key"])


def flip(file, byte=None, bit=3):
    """Flip one bit, in the middle if no byte is named."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1 << bit
    file.write_bytes(bytes(content))


def flip_in_row(file):
    """Flip one bit in the values of a row. (The middle of a file may lie in its metadata: the row is then rescued.)"""
    import pyarrow.parquet as pq

    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    flip(file, column.data_page_offset + column.total_compressed_size // 2)


def edit(file, key, value):
    content = json.loads(file.read_text())
    content[key] = value
    file.write_text(json.dumps(content))


def fewer(file):
    """A cut edited by hand: one unit less in one group."""
    content = json.loads(file.read_text())
    name = next(iter(content["kept"]))
    content["kept"][name] = content["kept"][name][:-1]
    file.write_text(json.dumps(content))


BASE = {
    "two bits flipped": lambda f: [flip(f / "model.safetensors", byte) for byte in (-9, -5)],
    "weights cut short": lambda f: (f / "model.safetensors").write_bytes(b"1234"),
    "weights missing": lambda f: (f / "model.safetensors").unlink(),
    "result.json empty": lambda f: (f / "result.json").write_text(""),
    "result.json another object": lambda f: (f / "result.json").write_text("{}"),
    "result.json a list": lambda f: (f / "result.json").write_text("[1]"),
    "result.json missing": lambda f: (f / "result.json").unlink(),
    "a metric edited": lambda f: edit(f / "result.json", "metrics", {"top1": 99.0}),
    "a hash edited": lambda f: edit(f / "result.json", "files", {"model.safetensors": "0" * 64}),
    ".complete missing": lambda f: (f / ".complete").unlink(),
    "folder empty": lambda f: [file.unlink() for file in f.iterdir()],
}
WITH_A_RUN = {  # how the base is damaged -> how the cut is
    "two bits flipped": "edited",
    "result.json empty": "empty",
    "a metric edited": "a bit flipped",
    ".complete missing": "missing",
    "folder empty": ".complete missing",
}
CUT = {
    "edited": lambda f: fewer(f / "cut.json"),
    "empty": lambda f: (f / "cut.json").write_text(""),
    "a bit flipped": lambda f: flip(f / "cut.json"),
    "missing": lambda f: (f / "cut.json").unlink(),
    ".complete missing": lambda f: (f / ".complete").unlink(),
}


@pytest.mark.parametrize("how", BASE)
def test_a_damaged_stage_is_moved_away_and_named(how, copy):
    folder, storage = stage(copy, kind="base"), open_storage(copy)
    assert sealed.intact(storage, f"stages/{folder.name}", "result.json") == folder
    BASE[how](folder)
    with pytest.warns(DamageWarning, match=f"^stages/{folder.name} is damaged: .*; it was set aside as damaged/.*"):
        assert sealed.intact(storage, f"stages/{folder.name}", "result.json") is None
    assert not folder.exists()


@pytest.mark.parametrize("how", WITH_A_RUN)
def test_a_damaged_stage_is_named_and_made_again_by_the_same_command(how, sweep, copy):
    cut = WITH_A_RUN[how]
    folders = {kind: stage(copy, kind=kind) for kind in ("base", "sparsify", "select")}
    forget(copy)
    BASE[how](folders["base"])
    CUT[cut](folders["select"])
    flip(folders["sparsify"] / "model.safetensors", -9)
    lines = again(sweep, copy)
    names = {f"stages/{folder.name}" for folder in folders.values()}
    assert {line.partition(" is damaged: ")[0] for line in lines} == names
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)
    assert len(list((copy / "damaged/stages").iterdir())) == 3
    assert all((folder / ".complete").exists() for folder in folders.values())


def test_a_stage_that_was_deleted_is_made_again(sweep, copy):
    shutil.rmtree(stage(copy, kind="base"))
    forget(copy)
    assert not again(sweep, copy), "nothing is there to be set aside"


def test_a_stage_that_no_open_cell_reads_is_left_alone(sweep, copy):
    flip(stage(copy, kind="base") / "model.safetensors", -9)
    assert not again(sweep, copy)


def test_weights_that_change_after_they_were_verified_are_noticed_when_they_are_read(sweep, copy):
    from raybench.errors import StageLost
    from raybench.pipeline import cache
    from raybench.pipeline.context import StageContext

    folder, context = stage(copy, kind="base"), StageContext(open_storage(copy))
    assert cache.read(context, folder.name, "base") == folder
    flip(folder / "model.safetensors", -9)
    with pytest.raises(StageLost, match="found other content"):
        cache.fill_from_stage(torch.nn.Linear(1, 1), folder, torch.device("cpu"))
    with pytest.warns(DamageWarning, match=f"stages/{folder.name} is damaged"), pytest.raises(StageLost):
        cache.read(context, folder.name, "base")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" + data])
def test_a_damaged_checkpoint_is_set_aside_and_its_stage_starts_again(damage, sweep, copy):
    trial_id = numbers(copy)[0]["trial_id"]
    StageCheckpoint(open_storage(copy), trial_id).save({"epoch": 1, "model": {}})
    file = copy / "checkpoints" / trial_id / "state.pt"
    file.write_bytes(damage(file.read_bytes()))
    forget(copy)
    (line,) = again(sweep, copy)
    assert line.startswith(f"checkpoints/{trial_id}/state.pt is damaged: ")


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        flip_in_row,
        lambda f: f.write_bytes(b""),
        lambda f: f.write_bytes(f.read_bytes()[:-100]),
        lambda f: f.write_text("x"),
    ],
)
def test_a_damaged_result_is_set_aside_and_its_cell_runs_again(damage, sweep, copy):
    file = next(copy.glob("results/cells/*/*/*.parquet"))
    damage(file)
    (line,) = again(sweep, copy)
    assert line.startswith(f"{file.relative_to(copy)} is damaged: ")
    assert len(open_storage(copy).list("damaged")) == 1


def test_a_damaged_part_is_set_aside_and_its_cells_run_again(sweep, copy):
    store = Store(open_storage(copy))
    store.add(store.table())
    next(copy.glob("results/cells/*/*/[0-9a-f]*.parquet")).unlink()
    assert not again(sweep, copy)
    flip(next(copy.glob("results/cells/*/*/part-*.parquet")))
    assert len(again(sweep, copy)) == 1


def test_plan_says_what_is_damaged_and_that_it_is_made_again(sweep, copy, capsys):
    file = next(copy.glob("results/cells/*/*/*.parquet"))
    flip_in_row(file)
    command = ["plan", str(sweep[0]), "--storage", str(copy)]
    assert main([*command, "--format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["counts"]["planned"] == 1
    assert planned["cells"][0]["reason"] == "its result is damaged, made again"
    assert planned["damaged"][0]["file"] == str(file.relative_to(copy))
    assert main(command) == 0
    assert f"{file.relative_to(copy)} is damaged: its content is not" in capsys.readouterr().out
    assert file.exists(), "plan changes nothing"
    assert len(again(sweep, copy)) == 1


def test_a_row_with_another_metric_under_its_old_checksum_runs_again(sweep, copy):
    from raybench.results.encoding import encode

    file = next(copy.glob("results/cells/*/*/*.parquet"))
    (row,) = Store(open_storage(copy)).table().to_pylist()
    file.write_bytes(encode([row | {"metric_final": 99.0}]))
    (line,) = again(sweep, copy)
    assert "other columns than their checksums" in line


@pytest.mark.parametrize("file", ["pruned.json", "model.safetensors", ".complete"])
def test_a_damaged_network_of_an_unfinished_cell_is_replaced(file, sweep, copy):
    from raybench import load_pruned

    folder = copy / "artifacts" / numbers(copy)[0]["trial_id"]
    shutil.rmtree(copy / "results")
    flip(folder / file) if file != ".complete" else (folder / file).unlink()
    assert len(again(sweep, copy)) == 1
    load_pruned(folder)


def test_an_unreadable_lease_is_taken_over(sweep, copy):
    forget(copy)
    for key in (row["trial_id"] for row in numbers(sweep[1])):
        (copy / "leases" / key).mkdir(parents=True)
        (copy / "leases" / key / "1").write_text("{")
    assert not again(sweep, copy)


def test_run_on_the_command_line_names_the_file_and_ends_with_0(sweep, copy, capsys):
    file = next(copy.glob("results/cells/*/*/*.parquet"))
    flip(file)
    assert main(["run", str(sweep[0]), "--local", "--storage", str(copy)]) == 0
    out = capsys.readouterr()
    assert "1 cell: 1 ok" in out.out
    assert out.err.count("is damaged") == 1
