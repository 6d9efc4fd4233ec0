"""`raybench export TRIAL_ID`: writes a pruned network as safetensors, ONNX or an exported program."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from raybench.cli.results import open_store
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.errors import UserError

FORMATS = ("safetensors", "onnx", "torch-export", "ultralytics")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("trial_id", metavar="TRIAL_ID", help="id of a finished cell, or its first characters")
    parser.add_argument(
        "--results", required=True, metavar="DIR", help="storage of the run: the folder or URL given as --storage"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="safetensors (default): read by raybench.load_pruned; onnx; torch-export: a program of torch.export; "
        "ultralytics: a detector as a checkpoint that YOLO(PATH) loads without raybench",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="file or folder to write (default: TRIAL_ID with the format's ending)",
    )
    add_plugin(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print what they are."""
    load_plugins(args)
    store = open_store(args.results)
    row = store.record(args.trial_id)
    if row["status"] != "ok" or not row.get("artifact"):
        raise UserError(f"{row['trial_id']} is {row['status']}: there is no pruned network to export")
    folder = store.storage.fetch(row["artifact"])
    if folder is None:
        raise UserError(f"{row['artifact']} is no longer in {args.results}; run the cell again")
    from raybench.pipeline.export import EXPORTS  # torch is imported from here on

    ending, write = EXPORTS[args.format]
    target = args.output or Path(row["trial_id"] + ending)
    if ending and target.suffix != ending:
        target = target.with_name(target.name + ending)  # readers recognise the format by it
    _check_free(target)
    try:
        written = write(folder, target)
    except OSError as error:  # e.g. a full disk
        raise UserError(f"-o {target}: can't be written: {error.strerror or error}") from error
    print(written)
    return 0


def _check_free(target: Path) -> None:
    """Make the folder of `target`; UserError when it can't be written, or `target` exists."""
    try:
        if target.exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"-o {target}: exists already; choose another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()  # permissions alone don't show it
    except OSError as error:
        raise UserError(f"-o {target}: can't write into the folder {target.parent}: {error.strerror}") from error
