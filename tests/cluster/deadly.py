"""Imported before a command's own code: kills the process between upload and publish, once per mark.

The folder in DEADLY remembers who died: "stage" with a stage copied and not yet renamed, "row" with a row written
and not yet linked.
"""

import os
import signal
from pathlib import Path

from raybench.storage.local import LocalStorage

_move = LocalStorage._move


def _deadly_move(self, target, move, *how):
    key = target.relative_to(self.root).as_posix()
    word = "stage" if key.startswith("stages/") else "row" if key.startswith("results/cells/") else ""
    mark = Path(os.environ["DEADLY"], word)
    if not mark.exists():
        mark.touch()
        os.killpg(0, signal.SIGKILL)  # the command with its child process: alone, the child would leave a failed row
    return _move(self, target, move, *how)


if "DEADLY" in os.environ:
    LocalStorage._move = _deadly_move
