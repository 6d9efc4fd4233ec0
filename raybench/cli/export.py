"""`raybench export TRIAL_ID`: writes a pruned network as safetensors, ONNX or an exported program."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from raybench.cli.results import find_store
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.errors import UserError
from raybench.reports.model_card import CARD, card_of

FORMATS = ("safetensors", "onnx", "torch-export", "ultralytics")
ENDINGS = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "torch-export", ".pt": "ultralytics"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("trial_id", metavar="TRIAL_ID", help="id of a finished cell, or its first characters")
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="storage of the run (default: those in this folder, one level below, in results/ and pruned/)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: by the ending of -o, else safetensors. safetensors: read by raybench.load_pruned; onnx; "
        "torch-export: a program of torch.export; ultralytics: a detector that YOLO(PATH) loads without raybench",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="file or folder to write (default: TRIAL_ID with the format's ending)",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the module of a network that was given as module:function; its name comes from the results",
    )
    add_plugin(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print what they are."""
    load_plugins(args)
    form = args.format or _by_ending(args.output)
    store = find_store(args.trial_id, args.results)
    row = store.record(args.trial_id)
    if row["status"] != "ok" or not row.get("artifact"):
        raise UserError(f"{row['trial_id']} is {row['status']}: there is no pruned network to export")
    if row["artifact"] != f"artifacts/{row['trial_id']}":
        raise UserError(f"{row['trial_id']}: found the network at {row['artifact']!r}, not written by raybench")
    folder = store.storage.fetch(row["artifact"])
    if folder is None:
        raise UserError(f"{row['artifact']} is no longer in {store.storage.url}; run the cell again")
    from raybench.pipeline.export import EXPORTS  # torch is imported from here on

    ending, write = EXPORTS[form]
    target = args.output or Path(row["trial_id"] + ending)
    if ending and target.suffix != ending:
        target = target.with_name(target.name + ending)  # readers recognise the format by it
    _check_free(target)
    try:
        written = write(folder, target, args.trust_code)
    except OSError as error:  # e.g. a full disk
        raise UserError(f"-o {target}: can't be written: {error.strerror or error}") from error
    if target.is_dir():
        (target / CARD).write_text(card_of(row), encoding="utf-8")
    print(written)
    return 0


def _by_ending(target: Path | None) -> str:
    """The format that the ending of `target` says; UserError for an ending of none."""
    ending = target.suffix.lower() if target else ""
    if ending and ending not in ENDINGS and not ending[1:].isdigit():  # `net-1.5` is no ending
        known = ", ".join(ENDINGS)
        raise UserError(f"-o {target}: found the ending {ending}, expected {known} or none for a folder; or --format")
    return ENDINGS.get(ending, "safetensors")


def _check_free(target: Path) -> None:
    """Make the folder of `target`; UserError when it can't be written, or `target` exists."""
    try:
        if target.exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"-o {target}: exists already; choose another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()  # permissions alone don't show it
    except OSError as error:
        raise UserError(f"-o {target}: can't write into the folder {target.parent}: {error.strerror}") from error
