"""`raybench sensitivity MODEL`: cuts each group of channels alone, and shows what that costs in accuracy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench import registry
from raybench.cli.network_options import (
    DATASET,
    add_calibration,
    add_device,
    add_network,
    add_parts,
    add_seed,
    folder_of,
)
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.prune_options import sweep_of
from raybench.cli.results import write_file
from raybench.cli.sweep_arguments import add_plugin, check_name, load_plugins
from raybench.errors import UserError
from raybench.sweep.modules import as_module
from raybench.sweep.resolve import resolve

if TYPE_CHECKING:
    from raybench.pipeline.sensitivity import Sensitivity

ENDINGS = (".svg", ".pdf", ".png")
RATIOS = (0.25, 0.5, 0.75)
UNUSED: dict[str, Any] = {  # options of `raybench prune` that say nothing here
    "regularizer": None, "strategy": "local", "speedup": [2.0], "ratio": None, "target_latency": None,
    "protocol": "raybench", "schedule": "auto", "round_to": 1, "depth": 1.0, "epochs": None, "lr": None,
    "no_finetune": False, "precision": None,
}  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name listed by raybench models, timm:NAME or module:function")
    add_network(parser)
    parser.set_defaults(dataset=DATASET)
    text = "criterion that orders the channels of a group, such as lamp or 'cp(points=20)' (default: magnitude-l2)"
    add("--method", default="magnitude-l2", metavar="C", help=text)
    text = "shares of a group's channels that go, between 0 and 1 (default: 0.25 0.5 0.75)"
    add("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R", help=text)
    text = "what accuracy is measured on: the validation or the test split (default: %(default)s)"
    add("--split", choices=("val", "test"), default="val", help=text)
    add_parts(parser)
    text = "how to train the dense network: one of raybench recipes or a YAML file (default: quick)"
    add("--recipe", metavar="NAME", help=text)
    add_calibration(parser)
    add_seed(parser)
    add_device(parser)
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
    storage = args.storage or folder_of(args.model)
    picture = args.output or storage / "sensitivity.svg"
    _check(args, picture)
    args.ratios = sorted(set(args.ratios))
    sweep = sweep_of(argparse.Namespace(**{**vars(args), **UNUSED, "method": [args.method]}))
    from raybench.execution.one_trial import in_this_process  # torch is imported from here on
    from raybench.execution.worker import Assignment
    from raybench.pipeline.sensitivity import sensitivity

    trial = resolve(sweep)[0]
    assignment = Assignment(str(storage), dict(sweep.data_roots), device=args.device)
    with redirect_stdout(sys.stderr):  # what the network's own code prints
        found = in_this_process(
            trial, assignment, lambda context: sensitivity(trial, context, args.ratios, args.split, _say), _say
        )
    title = f"Sensitivity of {args.model} on {args.dataset}, {args.method}"
    _draw(found, args.ratios, title, picture)
    if args.format == "json":
        about = {"model": args.model, "dataset": args.dataset, "method": args.method}
        print_json({**about, **asdict(found), "picture": picture})
        return
    _print(found, title)
    print(f"wrote {picture}")


def _check(args: argparse.Namespace, picture: Path) -> None:
    """UserError for an option that can't be, before torch is imported."""
    check_name("MODEL", registry.model, args.model)
    if (chosen := args.method.partition("(")[0].strip()) in registry.selection.entries():
        raise UserError(f"--method: found {chosen}, which trains for a speed-up; expected a criterion, such as lamp")
    if chosen in registry.token.entries():
        raise UserError(f"--method: found {chosen}, which removes tokens; expected a criterion, such as lamp")
    if wrong := [ratio for ratio in args.ratios if not 0 < ratio < 1]:
        raise UserError(f"--ratios: found {wrong[0]:g}, expected shares between 0 and 1")
    if picture.suffix.lower() not in ENDINGS:
        raise UserError(f"-o {picture}: found the ending {picture.suffix!r}, expected one of {', '.join(ENDINGS)}")


def _draw(found: Sensitivity, ratios: Sequence[float], title: str, picture: Path) -> None:
    """Write the picture: a line a group, its accuracy at every share."""
    from raybench.reports.drawing.writers import encoded
    from raybench.reports.plots.sensitivity import sensitivity_picture

    metrics: dict[str, list[float]] = {}
    for cut in found.cuts:
        metrics.setdefault(cut.group, []).append(cut.metric)
    drawing = sensitivity_picture(metrics, ratios, found.metric_base, found.metric_name, title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_file(picture, encoded(drawing, picture.suffix.lower()))


def _print(found: Sensitivity, title: str) -> None:
    """A row a group, a column a share; then the groups that have no scores."""
    rows: dict[str, dict[str, Any]] = {}
    for cut in found.cuts:
        row = rows.setdefault(cut.group, {"group": cut.group, "part": cut.part, "units": cut.units})
        row[f"{100 * cut.ratio:g} % go"] = f"{cut.metric:.2f}"
    columns = list(next(iter(rows.values()), ()))
    base = f"uncut {found.metric_base:.2f} % on the {found.split} split"
    title = f"{title}: {found.metric_name}, {base}; each group cut alone, nothing trained"
    print_rows(list(rows.values()), columns, title=title)
    for name in found.unscored:
        print(f"not cut, no scores: {name}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
