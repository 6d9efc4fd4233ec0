"""`raybench compact RESULTS`: merges the small result files of a storage into a few large ones."""

from __future__ import annotations

import argparse

from raybench.cli.results import add_results, open_store
from raybench.errors import counted
from raybench.results.compaction import compact


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Merge the files, and print how many there were and which could not be read."""
    done = compact(open_store(args.results))
    if not done.files and not done.bad:
        print("nothing to merge: all results are in large files already")
        return 0
    print(f"merged {counted(done.files, 'file')} into {done.parts}: {counted(done.rows, 'cell')}")
    for key, reason in done.bad:
        print(f"not merged: {key}: {reason}")
    return 0
