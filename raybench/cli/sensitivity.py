"""`raybench sensitivity MODEL`: cuts each group of channels alone, and shows what that costs in accuracy."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.prune_options import DATASET, sweep_of
from raybench.cli.quantities import image_size, parameter
from raybench.cli.results import write_file
from raybench.cli.sweep_arguments import add_plugin, check_name, load_plugins
from raybench.errors import UserError
from raybench.sweep.modules import as_module
from raybench.sweep.resolve import resolve

ENDINGS = (".svg", ".pdf", ".png")
RATIOS = (0.25, 0.5, 0.75)
UNUSED: dict[str, Any] = {  # options of `raybench prune` that say nothing here
    "regularizer": None, "strategy": "local", "speedup": [2.0], "ratio": None, "target_latency": None,
    "protocol": "raybench", "schedule": "auto", "round_to": 1, "epochs": None, "lr": None, "no_finetune": False,
    "precision": None,
}  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name listed by raybench models, timm:NAME or module:function")
    add("--weights", metavar="F", help="safetensors file or state dict, or `pretrained` (default: train by the recipe)")
    text = "take all layers but the classifier from the weights, and train a new one by the recipe's base stage"
    add("--new-head", action="store_true", help=text)
    add("--dataset", default=DATASET, metavar="D", help="dataset to measure on (default: %(default)s)")
    add("--data-root", metavar="DIR", help="folder of the dataset")
    text = "pixels to which images are scaled, such as 64, or 128x96, width x height"
    add("--image-size", type=image_size, metavar="N", help=text)
    many: dict[str, Any] = {"action": "append", "type": parameter, "default": [], "metavar": "K=V"}
    add("--dataset-param", **many, help="parameter of the dataset; may be repeated")
    add("--model-param", **many, help="parameter of the model; may be repeated")
    text = "criterion that orders the channels of a group, such as lamp or 'cp(points=20)' (default: magnitude-l2)"
    add("--method", default="magnitude-l2", metavar="C", help=text)
    text = "shares of a group's channels that go, between 0 and 1 (default: 0.25 0.5 0.75)"
    add("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R", help=text)
    text = "what accuracy is measured on: the validation or the test split (default: %(default)s)"
    add("--split", choices=("val", "test"), default="val", help=text)
    add("--prune", nargs="+", metavar="PART", help="parts of attention models: embed head-dim heads mlp")
    add("--keep", nargs="+", default=[], metavar="PATTERN", help="layers that keep their width, by name or glob")
    add("--only", nargs="+", default=[], metavar="PATTERN", help="layers outside which nothing shrinks")
    text = "how to train the dense network: one of raybench recipes or a YAML file (default: quick)"
    add("--recipe", metavar="NAME", help=text)
    text = "images that criteria which need data look at (default: the recipe's)"
    add("--calibration-images", type=int, metavar="N", help=text)
    add("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default: %(default)s)")
    add("--device", metavar="DEV", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    text = "folder of the dense network, as raybench prune -o names it: trained once (default: pruned/MODEL)"
    add("--storage", metavar="DIR", type=Path, help=text)
    text = f"picture to write; its ending is the format: {', '.join(ENDINGS)} (default: sensitivity.svg in --storage)"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Cut, measure, print the table and write the picture."""
    load_plugins(args)
    args.model = as_module(args.model)
    check_name("MODEL", registry.model, args.model)
    if wrong := [ratio for ratio in args.ratios if not 0 < ratio < 1]:
        raise UserError(f"--ratios: found {wrong[0]:g}, expected shares between 0 and 1")
    storage = args.storage or Path("pruned") / args.model.replace(":", "-").replace("/", "-")
    picture = args.output or storage / "sensitivity.svg"
    if picture.suffix.lower() not in ENDINGS:
        raise UserError(f"-o {picture}: found the ending {picture.suffix!r}, expected one of {', '.join(ENDINGS)}")
    args.ratios, method = sorted(set(args.ratios)), args.method
    options = argparse.Namespace(**{**vars(args), **UNUSED, "method": [method]})
    sweep = sweep_of(options)
    from raybench.execution.one_trial import in_this_process  # torch is imported from here on
    from raybench.execution.worker import Assignment
    from raybench.pipeline.sensitivity import sensitivity
    from raybench.reports.drawing.writers import encoded
    from raybench.reports.plots.sensitivity import sensitivity_picture

    trial = resolve(sweep)[0]
    assignment = Assignment(str(storage), dict(sweep.data_roots), device=args.device)
    with redirect_stdout(sys.stderr):  # what the network's own code prints
        found = in_this_process(
            trial, assignment, lambda context: sensitivity(trial, context, args.ratios, args.split, _say), _say
        )
    rows: dict[str, list[float]] = {}
    for cut in found.cuts:
        rows.setdefault(cut.group, []).append(cut.metric)
    title = f"Sensitivity of {args.model} on {args.dataset}, {method}"
    drawing = sensitivity_picture(rows, args.ratios, found.metric_base, found.metric_name, title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_file(picture, encoded(drawing, picture.suffix.lower()))
    if args.format == "json":
        print_json(
            {"model": args.model, "dataset": args.dataset, "method": method, **asdict(found), "picture": picture}
        )
        return
    shown: list[dict[str, Any]] = []
    for cut in found.cuts:
        if not shown or shown[-1]["group"] != cut.group:
            shown.append({"group": cut.group, "part": cut.part, "units": cut.units})
        shown[-1][f"{100 * cut.ratio:g} % go"] = f"{cut.metric:.2f}"
    columns = ["group", "part", "units", *(f"{100 * ratio:g} % go" for ratio in args.ratios)]
    base = f"uncut {found.metric_base:.2f} % on the {found.split} split"
    print_rows(shown, columns, title=f"{title}: {found.metric_name}, {base}; each group cut alone, nothing trained")
    for name in found.unscored:
        print(f"not cut, no scores: {name}")
    print(f"wrote {picture}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
