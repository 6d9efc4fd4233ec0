"""Entry point of a submitted job on the head node: compares versions with the sender, then calls `raybench run`."""

from __future__ import annotations

import sys

from raybench.cli.main import main
from raybench.execution.submission import client_versions, received_versions, version_mismatch

MISMATCH = 3  # exit code


def entry(arguments: list[str]) -> int:
    """Run the sweep. Returns the exit code of `raybench run`, or MISMATCH with the reason on standard error."""
    sent = received_versions()
    mismatch = version_mismatch(sent, client_versions()) if sent else None
    if mismatch:
        print(f"raybench submit: {mismatch}", file=sys.stderr)
        return MISMATCH
    return main(["run", *arguments])


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
