"""`raybench prune`: prunes one model without a sweep file, through the same pipeline as `raybench run --local`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.prune_options import add_options, sweep_of
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.execution.driver import Watcher
from raybench.execution.run import run_sweep
from raybench.plan.records import Unit
from raybench.progress.outcome import label_of
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.target import amount


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_options(parser)
    parser.add_argument("--device", metavar="DEV", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="folder of networks and results (default: pruned/MODEL); what it holds already is not computed again",
    )
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prune, and print one row per speed-up. Returns 0 when all succeeded, 1 otherwise, 130 when interrupted."""
    load_plugins(args)
    sweep = sweep_of(args)
    output = args.output or Path("pruned") / args.model.replace(":", "-").replace("/", "-")
    end = run_sweep(sweep, output, local=True, device=args.device, watcher=StartLines())
    if end.interrupted:
        print("interrupted; the same command continues at the last finished epoch", file=sys.stderr)
        return 130
    store = Store(open_storage(str(output)))
    rows = [dict(store.record(trial_id)) for trial_id in end.statuses]
    for row in rows:
        row["files"] = str(output / row["artifact"]) if row.get("artifact") else None
    if args.format == "json":
        print_json(rows)
    else:
        _print(rows, " ".join([f"--results {output}", *(f"--plugin {file}" for file in args.plugin)]))
    return 0 if all(row["status"] == "ok" for row in rows) else 1


class StartLines(Watcher):
    """Prints a line on standard error for each unit that starts, and other messages below it."""

    def started(self, unit: Unit) -> None:
        """Print the kind of the unit and its label."""
        print(f"{unit.kind}: {label_of(unit)} ...", file=sys.stderr)

    def say(self, text: str) -> None:
        """Print it, indented."""
        print(f"  {text}", file=sys.stderr)


def _print(rows: Sequence[Mapping[str, Any]], options: str) -> None:
    """Print a table of the pruned networks, then where they are. `options`: by which raybench export finds them."""
    done = [row for row in rows if row["status"] == "ok"]
    if done:
        shown = [_short(row) for row in done]
        print_rows(shown, list(shown[0]))
        for row in done:
            print(f"{row['speedup']:.3f}x: {row['files']} (raybench export {row['trial_id']} {options})")
            if row["reason"]:
                print(f"  {_target(row)} was missed: {row['reason']}")
    for row in rows:
        if row["status"] != "ok":
            why = row.get("reason") or f"{row.get('error_type')}: {row.get('error_message')}"
            print(f"{_target(row)} {row['status']}: {why}")


def _target(row: Mapping[str, Any]) -> str:
    return amount(row["speedup_target"], row["ratio"])


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a network that fit on one line: base -> pruned."""
    return {
        "asked": _target(row),
        "speed-up": f"{row['speedup']:.3f}",
        "params": f"{row['params_base']:,} -> {row['params']:,}",
        "MACs": f"{row['macs_base']:,} -> {row['macs']:,}",
        f"{row['metric_name']} %": f"{row['metric_base']:.2f}",
        "pruned": f"{row['metric_pruned']:.2f}",
        "final": f"{row['metric_final']:.2f}",
        "note": (row["reason"] or "").partition(":")[0] or None,
    }
