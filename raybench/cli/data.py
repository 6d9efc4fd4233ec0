"""`raybench data get NAME`: downloads a dataset. No other verb downloads data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from raybench import registry
from raybench.errors import UserError
from raybench.sweep.data_roots import ROOT_VARIABLE


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("action", choices=["get"], help="get: download, verify and unpack")
    parser.add_argument("name", metavar="NAME", help="a dataset (see raybench datasets)")
    parser.add_argument("--root", type=Path, metavar="DIR", help=f"target folder (default: ${ROOT_VARIABLE}/NAME)")


def run(args: argparse.Namespace) -> None:
    """Download the dataset with a progress bar, and print the line by which a sweep finds it."""
    from raybench.datasets.download import fetch, source_of

    registry.dataset.entry(args.name)
    source = source_of(args.name)
    root = args.root or _default_root(args.name)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bar(*columns) as bar:
        job = bar.add_task(args.name, total=None)
        folder = fetch(source, root, lambda done, total: bar.update(job, completed=done, total=total))
    print(f"{folder} is ready; in a sweep: data_roots: {{{args.name}: {root}}}")


def _default_root(name: str) -> Path:
    if not os.environ.get(ROOT_VARIABLE):
        raise UserError(f"--root: found none, expected --root DIR or the variable {ROOT_VARIABLE}")
    return Path(os.environ[ROOT_VARIABLE]).expanduser() / name
