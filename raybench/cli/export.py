"""`raybench export TRIAL_ID`: writes a pruned network as safetensors, ONNX or an exported program."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.cli.results import add_trial, find_store
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.errors import UserError, counted
from raybench.pipeline.push import check_repository, push
from raybench.reports.model_card import CARD, card_of
from raybench.reports.text import aligned
from raybench.storage.base import Storage
from raybench.sweep.data_roots import ROOT_VARIABLE
from raybench.sweep.modules import own_module
from raybench.sweep.trial import Trial

FORMATS = ("safetensors", "onnx", "torch-export", "ultralytics")
CODE = "the network is built by {function!r} of the module {module!r}, which would be imported and run"
ENDINGS = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "torch-export", ".pt": "ultralytics"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_trial(parser, "id of a finished cell, or its first characters")
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
    text = "static quantisation by onnxruntime on calibration images; prints accuracy and latency (with --format onnx)"
    parser.add_argument("--quantize", choices=("int8",), help=text)
    parser.add_argument("--data-root", metavar="DIR", help="folder of the network's dataset, for --quantize")
    text = "upload what was exported, with its card, to this model repository of the Hugging Face hub"
    parser.add_argument("--push-to-hub", metavar="USER/NAME", help=text)
    parser.add_argument("--private", action="store_true", help="make a new repository of --push-to-hub private")
    add_plugin(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print what they are."""
    load_plugins(args)
    form = _format(args)
    if args.push_to_hub:
        check_repository(args.push_to_hub)
    store = find_store(args.trial_id, args.results)
    row = store.record(args.trial_id)
    if row["status"] != "ok" or not row.get("artifact"):
        raise UserError(f"{row['trial_id']} is {row['status']}: there is no pruned network to export")
    if row["artifact"] != f"artifacts/{row['trial_id']}":
        raise UserError(f"{row['trial_id']}: found the network at {row['artifact']!r}, not written by raybench")
    target = _target(args.output, row["trial_id"], form)
    _check_free(target)
    _check_options(row, args)
    folder = store.storage.fetch(row["artifact"])
    if folder is None:
        raise UserError(f"{row['artifact']} is no longer in {store.storage.url}; run the cell again")
    from raybench.pipeline.export import EXPORTS  # torch is imported from here on

    _, write = EXPORTS[form]
    try:
        if args.quantize:
            written = _quantized(folder, target, row, store.storage, args)
        else:
            written = write(folder, target, args.trust_code)
    except OSError as error:  # e.g. a full disk
        raise UserError(f"-o {target}: can't be written: {error.strerror or error}") from error
    if target.is_dir():
        (target / CARD).write_text(card_of(row), encoding="utf-8")
    print(written)
    if args.push_to_hub:
        print(f"uploaded to {push(target, card_of(row), args.push_to_hub, private=args.private)}")
    return 0


def _format(args: argparse.Namespace) -> str:
    """The format that was asked for, or else that of the ending; UserError for options that don't fit it."""
    form = args.format or ("onnx" if args.quantize and not args.output else _by_ending(args.output))
    if args.quantize and form != "onnx":
        raise UserError(f"--quantize: found the format {form} beside it, expected onnx")
    if args.data_root and not args.quantize:
        raise UserError("--data-root: found no --quantize beside it; nothing else reads data")
    if args.private and not args.push_to_hub:
        raise UserError("--private: found no --push-to-hub beside it")
    return form


def _quantized(folder: Path, target: Path, row: Mapping[str, Any], storage: Storage, args: argparse.Namespace) -> str:
    """Write the int8 network; a table of both ONNX files."""
    from raybench.pipeline.quantize import quantize

    trial = Trial(**json.loads(row["trial"]))
    roots = {trial.dataset: args.data_root} if args.data_root else {}
    found = quantize(folder, target, trial, roots, storage, args.trust_code)
    cells = [["ONNX", f"{found.metric_name} %", "ms, 1 image", "file MB"]]
    for one in (found.plain, found.int8):
        cells.append([one.name, f"{one.metric:.2f}", f"{one.latency_ms:.3g}", f"{one.bytes / 1e6:.3g}"])
    images = counted(found.images, "image")
    title = f"{target}: int8 ONNX, calibrated on {images}; both measured in onnxruntime, on this CPU"
    return "\n".join([title, *aligned(cells, [False, True, True, True])])


def _by_ending(target: Path | None) -> str:
    """The format that the ending of `target` says; UserError for an ending of none."""
    ending = target.suffix.lower() if target else ""
    if ending and ending not in ENDINGS and not ending[1:].isdigit():  # `net-1.5` is no ending
        known = ", ".join(ENDINGS)
        raise UserError(f"-o {target}: found the ending {ending}, expected {known} or none for a folder; or --format")
    return ENDINGS.get(ending, "safetensors")


def _target(output: Path | None, trial_id: str, form: str) -> Path:
    """What is written: `output`, or the trial's id, with the ending by which readers recognise the format."""
    ending = next((one for one, name in ENDINGS.items() if name == form and form != "safetensors"), "")
    target = output or Path(trial_id + ending)
    return target.with_name(target.name + ending) if ending and target.suffix != ending else target


def _check_options(row: Mapping[str, Any], args: argparse.Namespace) -> None:
    """UserError for an option that this network needs and that is missing. Neither torch nor its code is imported."""
    if (module := own_module(row["model"])) and not args.trust_code:
        why = CODE.format(function=row["model"].partition(":")[2], module=module)
        raise UserError(f"--trust-code: found none, expected it: {why}. Give it if you trust that code")
    if args.data_root and not Path(args.data_root).is_dir():
        raise UserError(f"--data-root: found no folder {args.data_root}")
    name = row["dataset"]
    entry = registry.dataset.entries().get(name)
    found = args.data_root or os.environ.get(ROOT_VARIABLE) or (entry and entry.facts.get("embedded"))
    if args.quantize and not found:
        raise UserError(f"--data-root: found none, expected the folder of {name} (or {ROOT_VARIABLE}, its parent)")


def _check_free(target: Path) -> None:
    """Make the folder of `target`; UserError when it can't be written, or `target` exists."""
    try:
        if target.exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"-o {target}: exists already; choose another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()  # permissions alone don't show it
    except OSError as error:
        raise UserError(f"-o {target}: can't write into the folder {target.parent}: {error.strerror}") from error
