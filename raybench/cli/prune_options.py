"""Options of `raybench prune`, read as the equivalent sweep; mistakes are reported by option name."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.cli.network_options import add_calibration, add_network, add_parts, add_seed
from raybench.cli.prune_calibration import with_fewer_images
from raybench.cli.prune_latency import add_target_latency
from raybench.cli.quantities import speedup
from raybench.cli.sweep_arguments import check_name
from raybench.errors import UserError, nearest, nearest_path
from raybench.provenance import has_gpu, usable_cores
from raybench.sweep.data_roots import ROOT_VARIABLE
from raybench.sweep.method_label import EXPECTED, read_label
from raybench.sweep.mistakes import Mistake, Mistakes
from raybench.sweep.modules import as_module
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep

PRECISIONS = ("fp32", "tf32", "bf16")
OPTIONS = {  # key of a sweep -> its option, where the names differ
    "models": "--model", "datasets": "--dataset", "methods": "--method", "strategies": "--strategy",
    "speedups": "--speedup", "targets": "--target-params", "seeds": "--seed", "data_roots": "--data-root",
    "depths": "--depth",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to prune, and how."""
    add = parser.add_argument
    text = "a name listed by raybench models, timm:NAME or module:function"
    add("typed", nargs="?", metavar="MODEL", help=text)
    add("--model", metavar="M", help="the same as MODEL")
    add_network(parser)
    text = "methods to compare on one base, such as lamp 'cp(points=20)'; raybench methods lists them; all: every one"
    text += " (default: magnitude-l2)"
    add("--method", default=["magnitude-l2"], nargs="+", metavar="C", help=text)
    add("--regularizer", metavar="R", help="sparsity regularizer to train with before pruning (raybench methods)")
    text = "local, global, protected-global, isomorphic, optimal or optimal-blocks (default: %(default)s)"
    add("--strategy", default="protected-global", metavar="S", help=text)
    target = parser.add_mutually_exclusive_group()  # one is required, which is checked after the names
    text = "base MACs / pruned MACs, one or several, such as 2 or 2x"
    target.add_argument("--speedup", type=speedup, nargs="+", metavar="X", help=text)
    text = "base parameters / pruned parameters, one or several, such as 2 or 2x"
    target.add_argument("--target-params", type=speedup, nargs="+", metavar="X", help=text)
    target.add_argument("--ratio", type=float, metavar="R", help="share of channels to remove in one step")
    add_target_latency(target)
    text = "pruningbench: torch-pruning's own loop of 400 steps, which stops past the target (default: %(default)s)"
    add("--protocol", choices=("raybench", "pruningbench"), default="raybench", help=text)
    text = "how often channels are scored again; auto: chosen by the criterion (default: %(default)s)"
    add("--schedule", choices=("auto", "progressive", "iterative", "one-shot"), default="auto", help=text)
    add_parts(parser)
    text = "share of the blocks with a shortcut that stays; the others go whole first (default: %(default)s: all)"
    add("--depth", type=float, default=1.0, metavar="D", help=text)
    add("--round-to", type=int, default=1, metavar="N", help="keep a multiple of N channels (default: %(default)s)")
    add_seed(parser)
    text = "how to train: one of raybench recipes or a YAML file (default: quick; for class folders of photos: photos)"
    add("--recipe", metavar="NAME", help=text)
    add("--epochs", type=int, metavar="N", help="epochs of fine-tuning (default: the recipe's)")
    add("--lr", type=float, metavar="X", help="learning rate of fine-tuning (default: the recipe's)")
    add_calibration(parser)
    add("--no-finetune", action="store_true", help="don't train after pruning")
    text = "of training: %(choices)s (default: the recipe's, else the device's); scores and tests are always fp32"
    add("--precision", choices=PRECISIONS, help=text)


def name_model(args: argparse.Namespace) -> None:
    """Set `args.model` to what was typed, as MODEL or ``--model``; UserError for none and for two."""
    if args.typed and args.model and args.typed != args.model:
        raise UserError(f"--model: found {args.model!r} beside MODEL {args.typed!r}, expected one of the two")
    args.model = args.typed or args.model
    if not args.model:
        raise UserError("MODEL: found none, expected one of raybench models, timm:NAME or module:function")


def sweep_of(args: argparse.Namespace, chosen: Mapping[str, float] | None = None) -> Sweep:
    """The sweep that the options describe, read from a temporary file as any sweep is.

    Args:
        args: the parsed options.
        chosen: method -> its speed-up, in place of the methods and speed-ups of the options.

    Raises:
        UserError: an option is wrong; the message names the option.
    """
    args.model = as_module(args.model)
    _check_names(args)
    methods = _methods(args)
    fields: dict[str, Any] = {
        "name": "prune", "models": [_model(args)], "datasets": [_dataset(args)], "methods": methods,
        "strategies": [args.strategy], **_target(args), "seeds": [args.seed], "recipe": _recipe(args),
        "protocol": args.protocol, "schedule": args.schedule, "round_to": args.round_to,
        "depths": [args.depth],
        "device": _device_kind(args.device),
        "resources": {"cpus": usable_cores(), "gpus": 1},
        **{name: value for name in ("prune", "keep", "only") if (value := getattr(args, name))},
    }  # fmt: skip
    if chosen is not None:
        fields["methods"] = [{"name": name, "speedups": speedup} for name, speedup in chosen.items()]
        fields["speedups"] = sorted(set(chosen.values()))
    if args.data_root:
        fields["data_roots"] = {args.dataset: str(_existing(args.data_root, "--data-root"))}
    with tempfile.TemporaryDirectory(prefix="raybench-prune-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(json.dumps(fields))  # JSON is YAML
        try:
            sweep = load_sweep(file)
            if fewer := with_fewer_images(fields, sweep, args):
                file.write_text(json.dumps(fewer))
                sweep = load_sweep(file)
            resolve(sweep)  # reads weights and data: report their mistakes by option, too
            return sweep
        except Mistakes as error:
            raise UserError("\n".join(_by_option(mistake, file, args) for mistake in error.mistakes)) from error


def _model(args: argparse.Namespace) -> dict[str, Any]:
    """The network and its weights, as a sweep says them."""
    model: dict[str, Any] = {"name": args.model, "params": dict(args.model_param)}
    if args.weights:
        model["weights"] = args.weights if args.weights == "pretrained" else str(_existing(args.weights, "--weights"))
    if args.new_head:
        if not args.weights:
            raise UserError("--new-head: found no --weights; without them the whole network is new")
        model["new_head"] = True
    return model


def _target(args: argparse.Namespace) -> dict[str, Any]:
    """How much is pruned, as a sweep says it."""
    if getattr(args, "target_params", None):
        return {"targets": {"params": list(dict.fromkeys(args.target_params))}}
    if args.ratio is not None:
        return {"ratio": _share(args.ratio)}
    if args.speedup is args.target_latency is None:
        expected = "one of --speedup, --target-params, --ratio and --target-latency, such as --speedup 2"
        raise UserError(f"found no option that says how much to prune, expected {expected}")
    return {"speedups": list(dict.fromkeys(args.speedup or ()))}


def _methods(args: argparse.Namespace) -> list[str]:
    """The methods that the options name, each once, with the regularizer."""
    names = dict.fromkeys([*(registry.importance.entries() if "all" in args.method else ()), *args.method])
    return [f"{name}+{args.regularizer}" if args.regularizer else name for name in names if name != "all"]


def _dataset(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset's entry of the sweep, with its parameters."""
    params = dict(args.dataset_param)
    if args.image_size is not None:
        if "image_size" not in registry.dataset.entry(args.dataset).params:
            raise UserError(f"--image-size: found {args.image_size}, expected none: {args.dataset} has a fixed size")
        params["image_size"] = args.image_size
    return {"name": args.dataset, "params": params}


def _recipe(args: argparse.Namespace) -> Any:
    """The recipe's name or file, with what --epochs, --lr and --no-finetune change of it."""
    facts = registry.dataset.entry(args.dataset).facts
    photos = facts.get("user_data") and facts.get("task") == "classification"
    name = args.recipe or ("photos" if photos else "quick")
    named = str(_existing(name, "--recipe")) if name.endswith((".yaml", ".yml")) else name
    if args.no_finetune and (args.epochs is not None or args.lr is not None):
        raise UserError("--no-finetune: found --epochs or --lr beside it, which only fine-tuning reads")
    changes: dict[str, Any] = {"epochs": 0 if args.no_finetune else args.epochs, "lr": args.lr}
    changes = {key: value for key, value in changes.items() if value is not None}
    whole: dict[str, Any] = {"finetune": changes} if changes else {}
    if args.precision:
        whole["speed"] = {"precision": args.precision}
    if args.calibration_images is not None:
        whole["calibration_images"] = args.calibration_images
    return {"extends": named, **whole} if whole else named


def _by_option(mistake: Mistake, file: Path, args: argparse.Namespace) -> str:
    """The message of a mistake: with the option for one in our `file`, with file and line for one in a recipe."""
    if mistake.file == file:
        return f"{_option(mistake.path, args)}: {mistake.message}"
    inside = mistake.path[1:] if mistake.path[:1] == ("recipe",) else mistake.path
    return str(replace(mistake, path=inside))


def _option(path: Sequence[str | int], args: argparse.Namespace) -> str:
    """The option that sets the value at `path` in the sweep."""
    if path and path[0] == "recipe" and path[-1] in ("epochs", "lr", "calibration_images", "precision"):
        return f"--{str(path[-1]).replace('_', '-')}"
    if "params" in path and path[0] in ("models", "datasets"):
        sized = path[-1] == "image_size" and path[0] == "datasets" and args.image_size is not None
        given = "--image-size" if sized else ""
        return given or f"--{str(path[0])[:-1]}-param {path[-1]}".removesuffix(" params")
    if len(path) > 3 and path[0] == "methods":  # a parameter
        return f"{'--regularizer' if path[2] == 'regularizer_params' and args.regularizer else '--method'}: {path[3]}"
    name = str(path[0]) if path else "sweep"
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _check_names(args: argparse.Namespace) -> None:
    """UserError that names the option for unknown names, a missing data root and speed-ups of at most 1."""
    check_name("MODEL" if getattr(args, "typed", args.model) else "--model", registry.model, args.model)
    check_name("--dataset", registry.dataset, args.dataset, _folder_hint(args.dataset))
    for method in args.method:
        for part in _parts(method, args.regularizer) if method != "all" else ():
            check_name(*part)
    if args.regularizer:
        check_name("--regularizer", registry.regularizer, _name_of("--regularizer", args.regularizer))
    embedded = registry.dataset.entry(args.dataset).facts.get("embedded")
    if embedded and args.data_root:
        photos = "" if args.dataset.endswith("detection") else "; for class folders: --dataset imagefolder"
        raise UserError(f"--data-root: found {args.data_root!r}, expected none: {args.dataset} needs no folder{photos}")
    if not (embedded or args.data_root or os.environ.get(ROOT_VARIABLE)):
        raise UserError(
            f"--data-root: found none, expected the folder of {args.dataset} (or {ROOT_VARIABLE}, its parent)"
        )


def _parts(method: str, regularizer: str | None) -> Iterator[tuple[str, registry.Registry | registry.Either, str]]:
    """The names in a method as it was typed, ``cp(points=20)+group-norm``; UserError for two regularizers."""
    importance, plus, own = _name_of("--method", method).partition("+")
    if plus and regularizer:
        raise UserError(f"--regularizer: found {regularizer!r} beside --method {method!r}, which has one")
    yield "--method", registry.CHOICE, importance
    if plus:
        yield "--method", registry.regularizer, own


def _name_of(option: str, typed: str) -> str:
    """The name in `typed` without parameters; UserError for brackets of another form than a label's."""
    found = read_label(typed)
    if found is None:
        raise UserError(f"{option}: found {typed!r}, expected {EXPECTED}")
    return found[0]


def _folder_hint(name: str) -> str:
    """What to type for class folders of one's own, after an unknown dataset `name`."""
    folder = name if Path(name).is_dir() else "DIR"
    return f". For class folders of your own images: --dataset imagefolder --data-root {shlex.quote(folder)}"


def _device_kind(name: str | None) -> str:
    """`cpu` or `cuda`, part of the cells' identity; a GPU by default where the system has one."""
    if name is None:
        return "cuda" if has_gpu() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device: found {name!r}, expected cpu, cuda or cuda:N.{nearest(kind, ('cpu', 'cuda'))}")
    return kind


def _existing(path: str, option: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"{option}: found no {path}.{nearest_path(Path(path))}".removesuffix("."))
    return Path(path).resolve()


def _share(ratio: float) -> float:
    if not 0 < ratio < 1:
        raise UserError(f"--ratio: found {ratio:g}, expected a share between 0 and 1")
    return ratio
