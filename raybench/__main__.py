"""`python -m raybench`, and the command `raybench`: the command line."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # as raybench.execution.interrupt has it, which is still to be imported


def main() -> int:
    """Entry point of the `raybench` command; returns the exit code."""
    mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if mine:
        signal.signal(signal.SIGINT, _interrupted)
    from raybench.cli.main import main as command

    if mine:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


def _interrupted(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has begun while the first modules are imported."""
    verb = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].isidentifier() else ""
    os.write(2, f"{f'raybench {verb}'.strip()}: interrupted\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
