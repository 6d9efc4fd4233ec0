"""The nearest of what there is: sweep files of a folder, and names that are equally near."""

from __future__ import annotations

import pytest

from raybench.cli.main import main
from raybench.errors import nearest


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
