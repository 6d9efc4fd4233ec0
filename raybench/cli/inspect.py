"""`raybench inspect MODEL`: lists what of a model can be pruned, what stays whole and why, and the most speed-up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from raybench import registry
from raybench.cli.network_options import add_parts
from raybench.cli.output import add_format, print_json, print_rows, say
from raybench.cli.quantities import image_size, whole
from raybench.cli.sweep_arguments import add_plugin, check_name, load_plugins
from raybench.errors import counted
from raybench.image_size import read_size
from raybench.sweep.modules import as_module

if TYPE_CHECKING:
    from raybench.pipeline.inspection import Inspection

USUAL = {"classification": 1000, "detection": 80}  # classes of ImageNet and of COCO
SHOWN = 3  # layers of a group, or with one reason, that a line names


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name listed by raybench models, timm:NAME or module:function")
    text = "dataset whose channels, image size and classes the model is built for; its images are not read"
    add("--dataset", default="digits", metavar="D", help=f"{text} (default: %(default)s)")
    text = "pixels of the images, such as 224, or 128x96 (width x height) (default: the dataset's)"
    add("--image-size", type=image_size, metavar="N", help=text)
    text = (
        "classes that the model is built for (default: the dataset's; for your own photos 1000, for your own boxes 80)"
    )
    add("--classes", type=whole, metavar="N", help=text)
    add_parts(parser)
    add_plugin(parser)
    add_format(parser, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Inspect the model, and print what was found."""
    load_plugins(args)
    args.model = as_module(args.model)
    check_name("MODEL", registry.model, args.model)  # before torch is imported
    check_name("--dataset", registry.dataset, args.dataset)
    from raybench.datasets.open import facts_of
    from raybench.pipeline.inspection import inspect_named  # torch is imported from here on

    facts = facts_of(registry.dataset.entry(args.dataset))
    if size := read_size(args.image_size):
        facts = replace(facts, image_size=size)
    facts = replace(facts, classes=args.classes or facts.classes or _usual(facts.name, facts.task))
    with redirect_stdout(sys.stderr):  # what the network's own code prints
        found = inspect_named(args.model, facts, keep=args.keep, only=args.only, parts=args.prune or ())
    if args.format == "json":
        print_json(asdict(found))
    else:
        _print(found, args.model)


def _usual(dataset: str, task: str) -> int:
    """How many classes to build for where only the data's folder says how many there are; prints it."""
    text = f"classes: {USUAL[task]}, as {dataset} has as many as its folder says; --classes N builds the model for N"
    print(text, file=sys.stderr)
    return USUAL[task]


def _print(found: Inspection, model: str) -> None:
    """A row a group; then what stays whole and why, blocks that may go, and the most speed-up."""
    rows = [
        {
            "group": group.name,
            "part": group.part,
            "units": group.units,
            "MACs %": f"{100 * group.macs_share:.1f}",
            "params %": f"{100 * group.params_share:.1f}",
            "layers": _some(group.layers),
        }
        for group in found.groups
    ]
    title = f"{model}: {found.macs:,} MACs, {found.params:,} parameters, {counted(len(rows), 'group')}"
    print_rows(rows, ["group", "part", "units", "MACs %", "params %", "layers"], title=title)
    say("MACs %, params %: what goes if this group alone is cut to its fewest units")
    say("\nstays whole:")
    for why, layers in _by_reason(found.whole).items():
        say(f"  {_some(layers)}: {why}")
    if found.blocks:
        say(f"\nmay go whole: {counted(len(found.blocks), 'block')}: {_some(found.blocks)}")
    most = ", ".join(f"{speedup:.1f}x ({name})" for name, speedup in found.most.items())
    say(f"\nmost speed-up: {most}\ntracing took {found.seconds:.1f} s")


def _by_reason(whole: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    reasons: dict[str, tuple[str, ...]] = {}
    for layer, why in whole.items():
        reasons[why] = (*reasons.get(why, ()), layer)
    return reasons


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
