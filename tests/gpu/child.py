"""A process of the check: does parts one after the other and writes what it finds, an event as JSON in a line.

    python -m tests.gpu.child DEVICE QUICK NAME=MODULE:FUNCTION ...

It ends at the first error, as one of CUDA's spoils what comes later in its process; tests/gpu/check.py starts the next.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from importlib import import_module

MARK = "raybench-check "  # at the start of its lines; libraries may print others


def main() -> int:
    """Do the parts; 1 after an error."""
    kind, quick, *parts = sys.argv[1:]
    threading.Thread(target=leave_with_parent, daemon=True).start()
    for part in parts:
        name, _, where = part.partition("=")
        try:
            run(name, where, kind, quick == "quick")
        except ModuleNotFoundError as error:
            say("missing", name, figures=str(error))
        except Exception as error:
            first = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            say("error", name, figures=first, traceback=traceback.format_exc())
            return 1
        say("end", name)
    return 0


def run(name: str, where: str, kind: str, quick: bool) -> None:
    """Write the lines of a part."""
    import torch

    torch.set_num_threads(1)
    module, _, function = where.partition(":")
    for what, fine, figures in getattr(import_module(module), function)(torch.device(kind), quick):
        say("line", name, what=what, fine=bool(fine), figures=figures)


def say(event: str, part: str, **more: object) -> None:
    """Write an event."""
    print(MARK + json.dumps({"event": event, "part": part, **more}), flush=True)


def leave_with_parent() -> None:
    """End this process when the other one has: it holds standard input open and never writes to it.

    By os.read, as a lock of sys.stdin would be held in the processes of a loader, which close it.
    """
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
