"""raybench merge: copy the rows of other results folders into one."""

from __future__ import annotations

import argparse

from raybench.cli.results import open_store, plain_warnings
from raybench.errors import UserError
from raybench.results.store import Store
from raybench.storage.open import open_storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("target", metavar="A", help="the storage that gets the rows")
    parser.add_argument("sources", metavar="B", nargs="+", help="storages whose rows are copied; they are only read")


def run(args: argparse.Namespace) -> int:
    """Copy from each source in turn."""
    from raybench.results.merging import merge

    target = Store(open_storage(args.target))  # may be a new one
    for url in args.sources:
        source = open_store(url)
        if source.storage.url == target.storage.url:
            raise UserError(f"found {url!r} twice, expected another storage to copy from")
        if not source.statuses():
            raise UserError(f"no results in {source.storage.url}: expected the --storage folder of a run")
        with plain_warnings():
            done = merge(target, source)
        print(
            f"{source.storage.url}: copied {done.cells} cells and {done.attempts} failed attempts, {done.known} known"
        )
        for trial_id in done.differing:
            print(f"  {trial_id} has another final metric there; the row of {target.storage.url} stays")
    print("artifacts, checkpoints and cached stages stay where they are")
    return 0
