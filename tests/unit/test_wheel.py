"""The wheel works anywhere: built, unpacked into an empty folder, and used from another folder without the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]
CELL = """\
name: one
datasets: digits
models: test-convnet
methods: magnitude-l2
speedups: 2
recipe: {extends: quick, base: {epochs: 1, warmup_epochs: 0}, finetune: {epochs: 1}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what `pip install --target` puts there, without what it depends on."""
    source, folder = tmp_path_factory.mktemp("source") / "raybench", tmp_path_factory.mktemp("installed")
    names = ["pyproject.toml", "README.md", "LICENSE", "raybench", "sweeps"]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name, **({"symlinks": True} if (ROOT / name).is_dir() else {}))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def raybench(installed: Path, folder: Path, *arguments: str) -> str:
    """What the installed raybench prints, run in `folder` as somebody who has no checkout."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from raybench.cli.main import main; sys.exit(main())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_imported_is_what_was_installed(installed, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import raybench.cli; print(raybench.cli.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert found.startswith(str(installed))
    assert (installed / "raybench/py.typed").is_file()


def test_methods_are_listed(installed, tmp_path):
    assert "magnitude-l2" in raybench(installed, tmp_path, "methods")


def test_shipped_recipes_and_sweeps_are_known_by_name(installed, tmp_path):
    (tmp_path / "one.yaml").write_text(CELL)
    assert "1 cell" in raybench(installed, tmp_path, "validate", "one.yaml")
    assert "56 cells" in raybench(installed, tmp_path, "plan", "quickstart")


def test_a_sweep_of_one_cell_runs(installed, tmp_path):
    (tmp_path / "one.yaml").write_text(CELL)
    first = f"import sys; sys.path.insert(0, {str(installed)!r})"
    done = forked.run(first + forked.COMMAND, "run", "one.yaml", "--local", "--storage", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 cells: 1 ok" in done.stdout or "1 cell: 1 ok" in done.stdout
