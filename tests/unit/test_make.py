"""What the Makefile starts: where it installs, and what the processes find in their environment."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_takes_folders_with_spaces(tmp_path) -> None:
    folder = tmp_path / "my code"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "-n", "test", "VENV=../my env"]
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert 'touch "../my env/.ready"' in found.stdout
    assert '"../my env/bin"/python -m pytest' in found.stdout
    assert str(folder) not in found.stdout


def test_what_make_starts_keeps_compiled_modules() -> None:
    """Without them importing torch and what belongs to it takes more than twice as long, in each process."""
    show = "show: ; @echo found [$${PYTHONDONTWRITEBYTECODE-none}]"
    command = ["make", "-s", "--eval", show, "show"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "found [none]" in found.stdout
