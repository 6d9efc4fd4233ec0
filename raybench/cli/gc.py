"""`raybench gc STORAGE`: lists what can be removed from a storage; removes it with ``--delete``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.quantities import duration
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.errors import counted
from raybench.results.store import Store
from raybench.storage.gc import find_garbage, remove
from raybench.storage.open import open_existing
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("storage", metavar="STORAGE", help="storage of the runs: the folder or URL given as --storage")
    parser.add_argument("--delete", action="store_true", help="remove what is listed (default: only list it)")
    parser.add_argument(
        "--keep",
        action="append",
        metavar="SWEEP",
        help="also remove shared stages that no cell of this sweep file needs; may be repeated",
    )
    parser.add_argument(
        "--older",
        type=duration,
        default=3600.0,
        metavar="TIME",
        help="age from which unfinished writes are removed, such as 90 (seconds), 30m, 1h or 2d (default: 1h)",
    )
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List, or remove, what no run needs."""
    load_plugins(args)
    storage = open_existing(args.storage)
    finished = [trial_id for trial_id, status in Store(storage).statuses().items() if status != "failed"]
    found = find_garbage(storage, finished, _needed(args.keep), args.older)
    if args.delete:
        for garbage in found:
            remove(storage, garbage)
    if args.format == "json":
        print_json({"removed": args.delete, "found": [asdict(garbage) for garbage in found]})
        return
    if found:
        print_rows([asdict(garbage) for garbage in found], ("kind", "name", "reason"))
    done = "removed" if args.delete else "to remove; nothing was changed (--delete removes them)"
    print(f"{counted(len(found), 'item')} {done}" if found else "nothing to remove")


def _needed(sweeps: list[str] | None) -> set[str] | None:
    """Keys of the stages that the cells of the sweep files need; None without files."""
    if not sweeps:
        return None
    trials = [trial for file in sweeps for trial in resolve(load_sweep(file))]
    return {key for t in trials for key in (t.base_key, t.sparsify_key, t.select_key) if key}
