"""Makes the terminal pictures of docs/guide.md from real runs: prune, run, watch and leaderboard.

python -m tests.pictures [--folder docs/pictures] [--width 100]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: F401 - with it loaded, units run in this process, where their panel is
from rich.console import Console
from rich.text import Text

from raybench.cli.main import main as raybench
from raybench.execution.driver import Run
from raybench.execution.progress import Panel
from raybench.execution.run import run_sweep
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.progress.snapshot import StoreReader
from raybench.progress.view import panel
from raybench.storage.open import open_storage

SWEEP = """
name: digits
datasets: digits
models: test-convnet
methods: [random, magnitude-l2, taylor, magnitude-l2+group-norm]
speedups: [2, 4]
seeds: [0, 1, 2]
recipe: {extends: quick, base: {epochs: 4}, sparsify: {epochs: 2}, finetune: {epochs: 2, warmup_epochs: 0}}
"""
SHOT_AFTER = 9  # cells; then the pictures of a run and of its watcher are taken
FONT = "ui-monospace, 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Photographed(Panel):
    """The panel of `raybench run`, of which a picture is taken once, while a unit runs."""

    def __init__(self, console: Console, shoot: Callable[[Any], None]) -> None:
        super().__init__(console)
        self._shoot: Callable[[Any], None] | None = shoot
        self._cells = 0

    def begin(self, run: Run) -> None:
        super().begin(run)

    def started(self, unit: Unit) -> None:
        super().started(unit)
        if self._cells >= SHOT_AFTER and self._shoot and unit.kind == "cell":
            shoot, self._shoot = self._shoot, None
            threading.Thread(target=self._wait, args=[shoot]).start()

    def _wait(self, shoot: Callable[[Any], None]) -> None:
        """Take the picture once the panel, which reads the journal once a second, shows what runs."""
        for _ in range(200):
            if self._rows:
                break
            time.sleep(0.05)
        shoot(self)

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        super().ended(unit, outcome)
        self._cells += unit.kind == "cell"


def save(file: Path, command: str, content: Any, width: int) -> None:
    """`content` as rich prints it, below its command, as an SVG that loads nothing."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {command}", style="bold"))
    console.print(content)
    svg = console.export_svg(title="raybench", unique_id=file.stem)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", FONT.replace("'", ""))
    file.write_text(re.sub(r"[ \t]+\n", "\n", svg))
    print(f"wrote {file}")


def printed(arguments: list[str], width: int) -> Text:
    """What a command prints on standard output at `width` characters."""
    os.environ["COLUMNS"] = str(width)
    found = io.StringIO()
    binary = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(binary):
        code = raybench(arguments)
    found.write(binary.buffer.getvalue().decode())  # type: ignore[attr-defined]
    if code:
        raise SystemExit(f"{' '.join(arguments)}: ended with {code}")
    return Text(found.getvalue().rstrip())


def main() -> None:
    """Run the sweep and the commands, and write the four pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="folder of the results, to take them again without a run")
    options = parser.parse_args()
    target, width = options.folder.resolve(), options.width
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        Path("digits.yaml").write_text(SWEEP)

        def shoot(shown: Any) -> None:
            save(target / "run.svg", "raybench run digits.yaml --storage results", shown, width)
            reader = StoreReader(open_storage("results"))
            snapshot = next((one for _ in range(100) if (one := reader.read()).running), reader.read())
            save(target / "watch.svg", "raybench watch results", panel(snapshot), width)

        console = Console(file=io.StringIO(), force_terminal=True, width=width)
        run_sweep("digits.yaml", "results", local=True, watcher=Photographed(console, shoot))
        save(target / "leaderboard.svg", "raybench leaderboard results --wide",
             printed(["leaderboard", "results", "--wide"], width), width)  # fmt: skip
        prune = ["prune", "--model", "cifar-resnet20", "--speedup", "2x", "4x", "--best", "latency"]
        save(target / "prune.svg", f"raybench {' '.join(prune)}", printed(prune, width), width)


if __name__ == "__main__":
    sys.exit(main())
