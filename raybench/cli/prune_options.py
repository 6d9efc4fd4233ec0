"""Options of `raybench prune`, read as the equivalent sweep; mistakes are reported by option name."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.errors import UserError, nearest, unknown
from raybench.provenance import has_gpu, usable_cores
from raybench.sweep.data_roots import ROOT_VARIABLE
from raybench.sweep.mistakes import Mistake, Mistakes
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep

OPTIONS = {  # key of a sweep -> its option, where the names differ
    "models": "--model", "datasets": "--dataset", "methods": "--method", "strategies": "--strategy",
    "speedups": "--speedup", "seeds": "--seed", "data_roots": "--data-root",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to prune, and how."""
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="a name listed by raybench models, timm:NAME or module:function")
    add("--weights", metavar="F", help="safetensors file or state dict, or `pretrained` (default: train by the recipe)")
    add("--dataset", default="digits", metavar="D", help="dataset to train and measure on (default: %(default)s)")
    add("--data-root", metavar="DIR", help="folder of the dataset")
    add("--method", default="magnitude-l2", metavar="C", help="importance criterion (default: %(default)s)")
    add("--regularizer", metavar="R", help="sparsity regularizer to train with before pruning")
    text = "local, global, protected-global or isomorphic (default: %(default)s)"
    add("--strategy", default="protected-global", metavar="S", help=text)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--speedup", type=float, nargs="+", metavar="X", help="base MACs / pruned MACs, one or several")
    target.add_argument("--ratio", type=float, metavar="R", help="share of channels to remove in one step")
    text = "pruningbench: torch-pruning's own loop of 400 steps, which stops past the target (default: %(default)s)"
    add("--protocol", choices=("raybench", "pruningbench"), default="raybench", help=text)
    text = "how often channels are scored again; auto: chosen by the criterion (default: %(default)s)"
    add("--schedule", choices=("auto", "progressive", "iterative", "one-shot"), default="auto", help=text)
    add("--prune", nargs="+", metavar="PART", help="parts of attention models to prune: embed head-dim heads mlp")
    add("--round-to", type=int, default=1, metavar="N", help="keep a multiple of N channels (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default: %(default)s)")
    text = "how to train: name of a recipe or a YAML file (default: %(default)s)"
    add("--recipe", default="quick", metavar="NAME", help=text)
    add("--no-finetune", action="store_true", help="don't train after pruning")


def sweep_of(args: argparse.Namespace) -> Sweep:
    """The sweep that the options describe, read from a temporary file as any sweep is.

    Raises:
        UserError: an option is wrong; the message names the option.
    """
    _check_names(args)
    method = f"{args.method}+{args.regularizer}" if args.regularizer else args.method
    model: dict[str, Any] = {"name": args.model}
    if args.weights:
        model["weights"] = args.weights if args.weights == "pretrained" else str(_existing(args.weights, "--weights"))
    named = str(_existing(args.recipe, "--recipe")) if args.recipe.endswith((".yaml", ".yml")) else args.recipe
    recipe: Any = {"extends": named, "finetune": {"epochs": 0}} if args.no_finetune else named
    target = (
        {"speedups": list(dict.fromkeys(args.speedup or ()))} if args.ratio is None else {"ratio": _share(args.ratio)}
    )
    fields: dict[str, Any] = {
        "name": "prune", "models": [model], "datasets": [args.dataset], "methods": [method],
        "strategies": [args.strategy], **target, "seeds": [args.seed], "recipe": recipe,
        "protocol": args.protocol, "schedule": args.schedule, "round_to": args.round_to,
        "device": _device_kind(args.device),
        "resources": {"cpus": usable_cores(), "gpus": 1},
    }  # fmt: skip
    if args.prune:
        fields["prune"] = args.prune
    if args.data_root:
        fields["data_roots"] = {args.dataset: str(_existing(args.data_root, "--data-root"))}
    with tempfile.TemporaryDirectory(prefix="raybench-prune-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(json.dumps(fields))  # JSON is YAML
        try:
            sweep = load_sweep(file)
            resolve(sweep)  # reads weights and data: report their mistakes by option, too
            return sweep
        except Mistakes as error:
            raise UserError("\n".join(_by_option(mistake, file) for mistake in error.mistakes)) from error


def _by_option(mistake: Mistake, file: Path) -> str:
    """The message of a mistake: with the option for one in our `file`, with file and line for one in a recipe."""
    if mistake.file == file:
        return f"{_option(mistake.path)}: {mistake.message}"
    inside = mistake.path[1:] if mistake.path[:1] == ("recipe",) else mistake.path
    return str(replace(mistake, path=inside))


def _option(path: Sequence[str | int]) -> str:
    """The option that sets the value at `path` in the sweep."""
    name = str(path[0]) if path else "sweep"
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _check_names(args: argparse.Namespace) -> None:
    """UserError that names the option for unknown names, a missing data root and speed-ups of at most 1."""
    for option, kind, name in (
        ("--model", registry.model, args.model),
        ("--dataset", registry.dataset, args.dataset),
        ("--method", registry.importance, args.method),
        ("--regularizer", registry.regularizer, args.regularizer),
    ):
        if name is not None and ":" not in name and name not in kind.entries():
            raise UserError(f"{option}: {unknown(kind.kind, name, kind.entries())}")
    embedded = registry.dataset.entry(args.dataset).facts.get("embedded")
    if not (embedded or args.data_root or os.environ.get(ROOT_VARIABLE)):
        raise UserError(
            f"--data-root: found none, expected the folder of {args.dataset} (or {ROOT_VARIABLE}, its parent)"
        )
    for speedup in args.speedup or ():
        if not speedup > 1:
            raise UserError(f"--speedup: found {speedup:g}, expected numbers above 1")


def _device_kind(name: str | None) -> str:
    """`cpu` or `cuda`, part of the cells' identity; a GPU by default where the system has one."""
    if name is None:
        return "cuda" if has_gpu() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        hint = " Did you mean 'cuda'?" if kind == "gpu" else nearest(kind, ("cpu", "cuda"))
        raise UserError(f"--device: found {name!r}, expected cpu, cuda or cuda:N.{hint}")
    return kind


def _existing(path: str, option: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"{option}: found no {path}")
    return Path(path).resolve()


def _share(ratio: float) -> float:
    if not 0 < ratio < 1:
        raise UserError(f"--ratio: found {ratio:g}, expected a share between 0 and 1")
    return ratio
