"""`raybench prune`: prunes one model without a sweep file, through the same pipeline as `raybench run --local`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from raybench.cli.network_options import DATASET, add_device, folder_of
from raybench.cli.output import add_format, print_json, terminal_width
from raybench.cli.prune_latency import TargetLatency, speedups_for
from raybench.cli.prune_options import add_options, name_model, sweep_of
from raybench.cli.prune_progress import PruneLines
from raybench.cli.sweep_arguments import add_plugin, add_track, load_plugins
from raybench.errors import brief, failure
from raybench.execution.interrupt import INTERRUPTED
from raybench.execution.run import run_sweep
from raybench.execution.trackers import tracked
from raybench.reports.model_card import CARD, card_of
from raybench.reports.pruned_text import BEST, as_lines, best_lines, labels_of, ranked, target_of
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.method_label import method_label
from raybench.sweep.modules import own_module
from raybench.sweep.sweep import Sweep

WEIGHTS = "model.safetensors"
MISSED = {"granularity": "a single {} is too large a step to come closer (granularity)"}  # reason -> its meaning


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_options(parser)
    text = "what several methods are ranked by, and the best network is named by: accuracy (default) or latency"
    parser.add_argument("--best", choices=tuple(BEST), help=text)
    add_device(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="folder of networks and results (default: pruned/MODEL); what it holds already is not computed again",
    )
    add_track(parser)
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prune, and print the figures. Returns 0 when none failed and one succeeded, else 1; 130 when interrupted."""
    load_plugins(args)
    name_model(args)
    default, args.dataset = args.dataset is None, args.dataset or DATASET
    if default:
        print(f"dataset: {DATASET}, the default; --dataset NAME chooses another", file=sys.stderr)
    output = args.output or folder_of(args.model)
    chosen = None
    if args.target_latency:
        chosen = speedups_for(args, lambda probe: _cells(sweep_of(probe), output, args.device))
        if chosen is None:
            return _interrupted()
    rows = _cells(sweep_of(args, chosen), output, args.device, args.track)
    if rows is None:
        return _interrupted()
    rows = [_with_files(row, output) for row in rows]
    if args.format == "json":
        print_json(rows)
    else:
        _print(rows, _export_options(args, output), args.best)
        _print_missed(rows, args.target_latency)
    return 0 if all(row["status"] != "failed" for row in rows) and any(row["status"] == "ok" for row in rows) else 1


def _cells(sweep: Sweep, output: Path, device: str | None, track: str | None = None) -> list[dict[str, Any]] | None:
    """Run what is missing of `sweep`; the rows of its cells, or None when it was interrupted."""
    with redirect_stdout(sys.stderr):  # what the network's own code prints
        end = run_sweep(sweep, output, local=True, device=device, watcher=tracked(track, PruneLines()))
    store = Store(open_storage(str(output)))
    return None if end.interrupted else [_labelled(store.record(trial_id)) for trial_id in end.statuses]


def _labelled(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with its method as it is typed, with parameters."""
    return {**row, "label": method_label(json.loads(row["trial"]))}


def _interrupted() -> int:
    print("interrupted; the same command continues at the last finished epoch", file=sys.stderr)
    return INTERRUPTED


def _print_missed(rows: Sequence[Mapping[str, Any]], target: TargetLatency | None) -> None:
    """Say which networks took longer than ``--target-latency`` when they were timed again, after fine-tuning."""
    for row in rows:
        if not (target and row.get("latency_ms") and row.get("latency_base_ms")):
            continue
        most = target.ms(row["latency_base_ms"])
        if row["latency_ms"] > most:
            again = f"{row['latency_ms']:.3g} ms when timed again, above {most:.3g} ms: timings scatter"
            margin = f"a {'larger' if target.relative else 'smaller'} --target-latency leaves a margin"
            print(f"{row['label']} {target_of(row)}: {again}; {margin}")


def _with_files(row: dict[str, Any], output: Path) -> dict[str, Any]:
    """`row` with the folder of its network and the sizes of both weights files; writes the network's card."""
    folder = output / row["artifact"] if row.get("artifact") else None
    row |= {"files": str(folder) if folder else None, "bytes_base": None, "bytes": None}
    if folder is None or not folder.is_dir():
        return row
    sizes = {"bytes_base": output / "stages" / str(row["base_key"]) / WEIGHTS, "bytes": folder / WEIGHTS}
    row |= {name: file.stat().st_size for name, file in sizes.items() if file.is_file()}
    (folder / CARD).write_text(card_of(row), encoding="utf-8")
    return row


def _export_options(args: argparse.Namespace, output: Path) -> str:
    """The options, quoted for a shell, by which `raybench export` finds the networks."""
    trust = ["--trust-code"] if own_module(args.model) else []
    return shlex.join(["--results", str(output), *(f"--plugin={file}" for file in args.plugin), *trust])


def _print(rows: Sequence[Mapping[str, Any]], options: str, best: str | None) -> None:
    """Print figures, folders and the best network. `options`: by which raybench export finds the networks."""
    done = ranked([row for row in rows if row["status"] == "ok"], best or "accuracy")
    if done:
        print("\n".join([*as_lines(done, terminal_width()), ""]))
        for label, row in zip(labels_of(done), done, strict=True):
            print(f"{label}: {row['files']}\n    raybench export {row['trial_id']} {options}")
            if row["reason"]:
                why = str(MISSED.get(row["reason"], row["reason"])).replace("{}", row["kind"].removesuffix("s"))
                print(f"    {target_of(row)} was missed: {why}")
    for row in rows:
        if row["status"] != "ok":
            why = row.get("reason") or failure(row.get("error_type"), row.get("error_message"))
            print(f"{row['label']} {target_of(row)} {row['status']}: {brief(why)}")
    if done and (best or len({row["label"] for row in done}) > 1):
        print("\n".join(best_lines(done, best or "accuracy")))
