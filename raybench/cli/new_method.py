"""`raybench new-method NAME`: writes a template for a new criterion, regularizer, selection or token reducer."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from raybench import registry
from raybench.catalogue import METHOD_NAME
from raybench.cli.method_templates import NEEDS, OTHERS, template_of
from raybench.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", metavar="NAME", help="name of the method in sweeps: lower case with dashes")
    kind = parser.add_mutually_exclusive_group()
    for option, (words, _) in OTHERS.items():
        kind.add_argument(f"--{option}", action="store_true", help=f"write a {words} instead of a criterion")
    text = "what the criterion looks at: %(choices)s, or several but weights (default: weights)"
    parser.add_argument("--needs", choices=NEEDS, nargs="+", metavar="WHAT", help=text)
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="DIR", help="folder of the new file (default: the current one)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print how to use it. Nothing is overwritten."""
    if not METHOD_NAME.fullmatch(args.name):
        raise UserError(
            f"NAME: found {args.name!r}, expected lower case letters, digits and dashes, such as my-criterion"
        )
    names = registry.regularizer if args.regularizer else registry.CHOICE
    if args.name in names.entries():
        entry = names.entry(args.name)
        raise UserError(f"{entry.noun} {args.name!r} exists already: {entry.file}")
    path = args.folder / f"{args.name.replace('-', '_')}.py"
    if path.exists():
        raise UserError(f"{path} exists already; choose another name or folder")
    kind = next((option for option in OTHERS if getattr(args, option)), None)
    if args.needs and kind:
        expected = f"expected one of the two: {OTHERS[kind][0]}s need no evidence"
        raise UserError(f"--needs: found it beside --{kind}, {expected}")
    needs = tuple(dict.fromkeys(args.needs or ("weights",)))
    if len(needs) > 1 and "weights" in needs:
        raise UserError("--needs: found weights beside others, expected the others alone: every criterion sees weights")
    text = template_of(args.name, needs, kind)
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")
    file = shlex.quote(str(path))
    print(f"check it:  python -m raybench.testing.conformance {file}")
    print(f"use it:    raybench run SWEEP --plugin {file}")
