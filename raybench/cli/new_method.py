"""`raybench new-method NAME`: writes a template for a new criterion, regularizer or trained selection."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from raybench import registry
from raybench.catalogue import METHOD_NAME
from raybench.cli.method_templates import NEEDS, template_of
from raybench.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", metavar="NAME", help="name of the method in sweeps: lower case with dashes")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--regularizer", action="store_true", help="write a sparsity regularizer instead of a criterion")
    kind.add_argument("--selection", action="store_true", help="write a trained selection instead of a criterion")
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
    kind = registry.regularizer if args.regularizer else registry.CHOICE
    if args.name in kind.entries():
        entry = kind.entry(args.name)
        raise UserError(f"{entry.kind} {args.name!r} exists already: {entry.file}")
    path = args.folder / f"{args.name.replace('-', '_')}.py"
    if path.exists():
        raise UserError(f"{path} exists already; choose another name or folder")
    if args.needs and (args.regularizer or args.selection):
        other, what = ("--regularizer", "regularizer") if args.regularizer else ("--selection", "trained selection")
        raise UserError(f"--needs: found it beside {other}, expected one of the two: a {what} sees the weights")
    needs = tuple(dict.fromkeys(args.needs or ("weights",)))
    if len(needs) > 1 and "weights" in needs:
        raise UserError("--needs: found weights beside others, expected the others alone: every criterion sees weights")
    text = template_of(args.name, needs, regularizer=args.regularizer, selection=args.selection)
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")
    file = shlex.quote(str(path))
    print(f"check it:  python -m raybench.testing.conformance {file}")
    print(f"use it:    raybench run SWEEP --plugin {file}")
