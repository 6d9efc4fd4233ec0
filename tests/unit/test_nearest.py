"""The nearest of what there is: sweep files of a folder, and names that are equally near."""

from __future__ import annotations

import contextlib

import pytest

from raybench.cli.main import main
from raybench.errors import nearest

SLIPS = """name: slips
datasets: imagefolder
models: {name: resnet18, weights: mynet.pth}
methods: random
speedups: 2
recipe: photos
data_roots: {imagefolder: photos}
"""
PHOTOS = ["prune", "resnet18", "--speedup", "2", "--dataset", "imagefolder"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("mine", "mine: found no such file, nor a shipped sweep of that name. Did you mean 'mine.yaml'? Shipped: "),
        ("minne.yaml", "minne.yaml: found no such file. Did you mean 'mine.yaml'?"),
        ("other.txt", "other.txt: found no such file"),
        ("./deeper/mine.yaml", "deeper/mine.yaml: found no such file"),
        ("empty", "empty: found a folder, expected a sweep file (YAML)"),
        ("run", "run: found a folder, expected a sweep file (YAML); `raybench leaderboard` takes the storage of a run"),
    ],
)
def test_what_is_no_sweep_file_is_said_with_the_nearest_one(typed, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine")
    (tmp_path / "run" / "results").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert main(["plan", typed]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"raybench plan: {said}")
    assert found.endswith(f"{said}\n") or said.endswith("Shipped: ")


def test_of_names_that_are_equally_near_the_one_with_the_same_start_is_meant() -> None:
    known = ["cifar-resnet18", "cifar-resnet20", "cifar-resnet32", "cifar-resnet56"]
    assert nearest("cifar-resnet2O", known) == " Did you mean 'cifar-resnet20'?"
    assert nearest("cifar-resnet5", known) == " Did you mean 'cifar-resnet56'?"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["plan", "sweeps/minne.yaml"], "sweeps/minne.yaml: found no such file. Did you mean 'sweeps/mine.yaml'?"),
        (["prune", "resnt18"], "MODEL: unknown model 'resnt18'. Did you mean 'resnet18'?"),
        (["prune", "resnet18"], "found no option that says how much to prune, expected one of --speedup,"),
        (["prune", "mynett.py:net", "--speedup", "2"], "(set PYTHONPATH). Did you mean 'mynet'?"),
        ([*PHOTOS, "--data-root", "sweps"], "--data-root: found no sweps. Did you mean 'sweeps'?"),
        ([*PHOTOS, "--data-root", "nowhere/x"], "--data-root: found no nowhere/x\n"),
        ([*PHOTOS, "--data-root", "sweeps", "--weights", "mynet.pt"], "--weights: found no mynet.pt. Did you mean 'my"),
        ([*PHOTOS[:4], "--data-root", "sweeps"], "found 'sweeps', expected none: digits needs no folder; for class fo"),
        (["plan", "quickstart", "--plugin", "mynett.py"], "model or dataset. Did you mean 'mynet.py'?"),
        (["validate", "slips.yaml"], "slips.yaml:3: models.weights: found '"),
        (["validate", "slips.yaml"], "/mynet.pth'?\n"),
        (["validate", "folder.yaml"], "(from data_roots: imagefolder). Did you mean '"),
        ([*PHOTOS, "--data-root", "photos/rose"], "photos has class folders: is that meant?"),
    ],
)
def test_what_was_meant_is_named_where_names_and_paths_are_typed(typed, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("sweeps", "photos/rose", "photos/tulip"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sweeps" / "mine.yaml").write_text("name: mine")
    (tmp_path / "mynet.py").write_text("def net(): ...")
    (tmp_path / "mynet.pth").touch()
    (tmp_path / "slips.yaml").write_text(SLIPS.replace("mynet.pth", "mynt.pth"))
    (tmp_path / "folder.yaml").write_text(SLIPS.replace(": photos}", ": photoz}").replace(", weights: mynet.pth", ""))
    with contextlib.suppress(SystemExit):
        assert main(typed) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("storage", [["--storage", "~/runs"], ["--storage=~/runs"]])
def test_a_home_that_the_shell_left_is_replaced(storage, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("name: mine")
    assert main(["plan", "~/mine.yaml", *storage]) == 2
    assert f"{tmp_path}/mine.yaml:1: models: the key is missing" in capsys.readouterr().err
    assert main(["plan", "quickstart", *storage]) == 0
    assert f"(storage {tmp_path}/runs)" in capsys.readouterr().out
    assert main(["plan", "~/~/mine.yaml"]) == 2
    assert f"{tmp_path}/~/mine.yaml: found no such file" in capsys.readouterr().err
