"""raybench compact: merge small result files into few."""

from __future__ import annotations

import argparse

from raybench.cli.results import add_results, open_store
from raybench.results.compaction import compact


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Merge, and say what became of what."""
    done = compact(open_store(args.results))
    print(f"merged {done.files} files into {done.parts}: {done.rows} cells")
    for key, reason in done.bad:
        print(f"left alone: {key}: {reason}")
    return 0
