"""raybench prune: one model made cheaper from the command line alone, through the same pipeline as a sweep."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.datasets.roots import ROOT_VARIABLE
from raybench.errors import UserError, unknown
from raybench.results.labels import amount
from raybench.spec.mistakes import Mistake, Mistakes
from raybench.spec.reader import load_sweep
from raybench.spec.resolve import resolve
from raybench.spec.trial import Trial, digest

FLAGS = {  # key of a sweep -> the option that says the same, where it isn't the key's own name
    "models": "--model", "datasets": "--dataset", "methods": "--method", "strategies": "--strategy",
    "speedups": "--speedup", "seeds": "--seed", "data_roots": "--data-root",
}  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "--model", required=True, metavar="M", help="a model's name (raybench models), timm:NAME, module:function"
    )
    parser.add_argument(
        "--weights", metavar="F", help="safetensors or state dict; `pretrained`; default: trained by the recipe"
    )
    parser.add_argument(
        "--dataset", default="digits", metavar="D", help="what to train and measure on (default: %(default)s)"
    )
    parser.add_argument("--data-root", metavar="R", help="the folder of the dataset")
    parser.add_argument(
        "--method", default="magnitude-l2", metavar="C", help="importance criterion (default: %(default)s)"
    )
    parser.add_argument("--regularizer", metavar="R", help="sparsity regularizer to train with before pruning")
    parser.add_argument("--strategy", default="protected-global", metavar="S", help="default: %(default)s")
    much = parser.add_mutually_exclusive_group(required=True)
    much.add_argument("--speedup", type=float, nargs="+", metavar="X", help="base MACs / pruned MACs, one or several")
    much.add_argument(
        "--ratio", type=float, metavar="R", help="share of channels to remove in one step, whatever it saves"
    )
    parser.add_argument(
        "--protocol", choices=("raybench", "pruningbench"), default="raybench",
        help="pruningbench: torch-pruning's own loop of 400 steps, which stops past the target (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--schedule", choices=("auto", "progressive", "iterative", "one-shot"), default="auto",
        help="how often channels are scored anew; auto: as the criterion needs it",
    )  # fmt: skip
    parser.add_argument(
        "--prune", nargs="+", metavar="PART", help="parts of attention models: embed head-dim heads mlp"
    )
    parser.add_argument("--round-to", type=int, default=1, metavar="N", help="keep a multiple of N channels")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument(
        "--recipe", default="quick", metavar="NAME", help="how to train: a name or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--no-finetune", action="store_true", help="don't train after pruning")
    parser.add_argument("--device", metavar="DEV", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="default: pruned/MODEL; what lies there isn't computed again, so methods share their base",
    )
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prune, print one row a speed-up; 0 when every one came out, 1 otherwise."""
    load_plugins(args)
    method = f"{args.method}+{args.regularizer}" if args.regularizer else args.method
    output = args.output or Path("pruned") / args.model.replace(":", "-").replace("/", "-")
    trials = _trials(args, method)
    from raybench.cli.prune_run import run_trials  # torch is imported from here on

    rows = run_trials(trials, output, args.device, {args.dataset: args.data_root} if args.data_root else {})
    for row in rows:
        row["files"] = str(output / row["artifact"]) if row.get("artifact") else None
    if args.format == "json":
        print_json([_plain(row) for row in rows])
    else:
        _print(rows, " ".join([f"--results {output}", *(f"--plugin {file}" for file in args.plugin)]))
    return 0 if all(row["status"] == "ok" for row in rows) else 1


def _trials(args: argparse.Namespace, method: str) -> tuple[Trial, ...]:
    """The cells that the options mean, by way of the sweep file that would say the same."""
    _check_names(args)
    model: dict[str, Any] = {"name": args.model}
    if args.weights:
        model["weights"] = args.weights if args.weights == "pretrained" else str(_existing(args.weights, "--weights"))
    named = str(_existing(args.recipe, "--recipe")) if args.recipe.endswith((".yaml", ".yml")) else args.recipe
    recipe: Any = {"extends": named, "finetune": {"epochs": 0}} if args.no_finetune else named
    much = (
        {"speedups": list(dict.fromkeys(args.speedup or ()))} if args.ratio is None else {"ratio": _share(args.ratio)}
    )
    told: dict[str, Any] = {
        "name": "prune", "models": [model], "datasets": [args.dataset], "methods": [method],
        "strategies": [args.strategy], **much, "seeds": [args.seed], "recipe": recipe,
        "protocol": args.protocol, "schedule": args.schedule, "round_to": args.round_to,
    }  # fmt: skip
    if args.prune:
        told["prune"] = args.prune
    if args.data_root:
        told["data_roots"] = {args.dataset: str(_existing(args.data_root, "--data-root"))}
    with tempfile.TemporaryDirectory(prefix="raybench-prune-") as folder:
        ours = Path(folder) / "sweep.yaml"
        ours.write_text(json.dumps(told))  # JSON is YAML
        try:
            return resolve(load_sweep(ours))
        except Mistakes as error:
            raise UserError("\n".join(_told(mistake, ours) for mistake in error.mistakes)) from error


def _told(mistake: Mistake, ours: Path) -> str:
    """A mistake in the words of who typed: the option, or the place in their recipe's file."""
    if mistake.file == ours:
        return f"{_flag(mistake.path)}: {mistake.told}"
    inside = mistake.path[1:] if mistake.path[:1] == ("recipe",) else mistake.path
    return str(replace(mistake, path=inside))


def _flag(path: Sequence[str | int]) -> str:
    """The option that put a value into the sweep at `path`."""
    name = str(path[0]) if path else "sweep"
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def _check_names(args: argparse.Namespace) -> None:
    """UserError that names the flag, before a sweep file's line would be blamed."""
    for flag, kind, name in (
        ("--model", registry.model, args.model),
        ("--dataset", registry.dataset, args.dataset),
        ("--method", registry.importance, args.method),
        ("--regularizer", registry.regularizer, args.regularizer),
    ):
        if name is not None and ":" not in name and name not in kind.entries():
            raise UserError(f"{flag}: {unknown(kind.kind, name, kind.entries())}")
    embedded = registry.dataset.entry(args.dataset).facts.get("embedded")
    if not (embedded or args.data_root or os.environ.get(ROOT_VARIABLE)):
        raise UserError(
            f"--data-root: found none, expected the folder of {args.dataset} (or {ROOT_VARIABLE}, its parent)"
        )
    for speedup in args.speedup or ():
        if not speedup > 1:
            raise UserError(f"--speedup: found {speedup:g}, expected numbers above 1")


def _existing(path: str, flag: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"{flag}: found no {path}")
    return Path(path).resolve()


def _share(ratio: float) -> float:
    if not 0 < ratio < 1:
        raise UserError(f"--ratio: found {ratio:g}, expected a share between 0 and 1")
    return ratio


def select_unit_key(trials: Sequence[Trial]) -> str:
    """Name of the pass that selects for all `trials` at once."""
    return digest("pass", sorted(trial.select_key for trial in trials))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _print(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """`where`: the options by which raybench export finds the networks."""
    done = [row for row in rows if row["status"] == "ok"]
    if done:
        shown = [_short(row) for row in done]
        print_rows(shown, list(shown[0]))
        for row in done:
            print(f"{row['speedup']:.3f}x: {row['files']} (raybench export {row['trial_id']} {where})")
            if row["reason"]:
                print(f"  {_asked(row)} was missed: {row['reason']}")
    for row in rows:
        if row["status"] != "ok":
            why = row.get("reason") or f"{row.get('error_type')}: {row.get('error_message')}"
            print(f"{_asked(row)} {row['status']}: {why}")


def _asked(row: Mapping[str, Any]) -> str:
    return amount(row["speedup_target"], row["ratio"])


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """What fits on a line: base -> pruned."""
    return {
        "asked": _asked(row),
        "speed-up": f"{row['speedup']:.3f}",
        "params": f"{row['params_base']:,} -> {row['params']:,}",
        "MACs": f"{row['macs_base']:,} -> {row['macs']:,}",
        f"{row['metric_name']} %": f"{row['metric_base']:.2f}",
        "pruned": f"{row['metric_pruned']:.2f}",
        "final": f"{row['metric_final']:.2f}",
        "note": (row["reason"] or "").partition(":")[0] or None,
    }
