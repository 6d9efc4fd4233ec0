"""`raybench merge TARGET SOURCE ...`: copies the results of other storages into one."""

from __future__ import annotations

import argparse

from raybench.cli.results import open_store
from raybench.errors import UserError, counted
from raybench.reports.unfinished import no_results
from raybench.results.store import Store
from raybench.storage.open import check_writable, open_storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("target", metavar="TARGET", help="storage that gets the rows; made if it doesn't exist")
    parser.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="storages whose rows are copied; they are not changed"
    )


def run(args: argparse.Namespace) -> int:
    """Copy the rows of each source, and print what was copied."""
    from raybench.results.merging import merge

    target = Store(open_storage(args.target))  # may be a new one
    for source in [_source(url, target) for url in args.sources]:  # all of them first: nothing is copied for a slip
        check_writable(target.storage)
        done = merge(target, source)
        copied = f"copied {counted(done.cells, 'cell')} and {counted(done.attempts, 'failed attempt')}"
        known = f"{counted(done.known, 'cell')} {'was' if done.known == 1 else 'were'} there already"
        print(f"{source.storage.url}: {copied}; {known}")
        for trial_id in done.differing:
            print(f"  {trial_id} has another final metric there; the row in {target.storage.url} was kept")
    print("artifacts, checkpoints and cached stages were not copied")
    return 0


def _source(url: str, target: Store) -> Store:
    """The results at `url`; UserError where there are none, and for the target itself."""
    source = open_store(url)
    if source.storage.url == target.storage.url:
        raise UserError(f"{url}: found as TARGET and as SOURCE, expected two storages")
    if not source.statuses():
        raise UserError(no_results(source.storage))
    return source
