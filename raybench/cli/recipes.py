"""`raybench recipes [NAME]`: lists the training recipes, or prints one as a start for one's own."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from raybench.cli.output import add_format, print_json, print_rows
from raybench.errors import UserError, unknown
from raybench.sweep.nodes import parse
from raybench.sweep.reader import recipe_files


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    text = "print this recipe: `raybench recipes quick > mine.yaml` is a start for `--recipe mine.yaml`"
    parser.add_argument("name", nargs="?", metavar="NAME", help=text)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the recipes, or print one."""
    files = recipe_files(Path())
    if args.name is None:
        rows = [_row(name, file) for name, file in sorted(files.items())]
        if args.format == "json":
            print_json(rows)
        else:
            print_rows(rows, ("name", "base", "sparsify", "finetune", "about"), title="recipes: epochs of each stage")
            print("\nraybench recipes NAME prints one; `raybench recipes quick > mine.yaml` starts your own")
        return
    if args.name not in files:
        raise UserError(unknown("recipe", args.name, files))
    text = files[args.name].read_text("utf-8")
    if args.format == "json":
        print_json(parse(files[args.name]).plain())
    else:
        sys.stdout.write(text)


def _row(name: str, file: Path) -> dict[str, Any]:
    """Epochs of each stage, None for a stage that the recipe takes from another, and the file's first comment."""
    text = file.read_text("utf-8")
    content = parse(file).plain()
    epochs = {stage: (content.get(stage) or {}).get("epochs") for stage in ("base", "sparsify", "finetune")}
    comment = " ".join(line.lstrip("# ") for line in itertools.takewhile(_is_comment, text.splitlines()))
    about = re.split(r"(?<=\w[.;:]) ", comment)[0].partition(" (")[0].rstrip(".;:") or None  # the first clause
    return {"name": name, **epochs, "about": about, "file": str(file)}


def _is_comment(line: str) -> bool:
    return line.startswith("#")
