"""Exports a pruned network to ONNX, torch.export or ultralytics, and compares its outputs with the network's.

What is exported says how to use it: its class names, how its images are normalised, and the names of its tensors.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import StageError, UserError
from raybench.pipeline.artifact import load_pruned, read_recipe
from raybench.pipeline.compared import TOLERANCE, difference

ABOUT = "raybench.json"  # the file in a program of torch.export that says how to use it
EXPORTERS = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "onnxscript", "onnx_ir")
Writer = Callable[[Path, Path, bool], str]  # (artifact folder, target, trust_code) -> message for the user


def to_safetensors(folder: Path, target: Path, trust_code: bool = False) -> str:
    """Copy ``pruned.json`` and ``model.safetensors`` into the folder `target`, or the weights to `target`.safetensors.

    The single file holds the pruned network's state dict alone, for loaders of one's own.
    """
    load_pruned(folder, trust_code=trust_code)
    if target.suffix == ".safetensors":
        shutil.copyfile(folder / "model.safetensors", target)
        return (
            f"{target}: the weights alone, a state dict; without -o FILE.safetensors, a folder that load_pruned reads"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in ("pruned.json", "model.safetensors"):
        shutil.copyfile(folder / name, target / name)
    load = f"raybench.load_pruned({str(target)!r}{', trust_code=True' if trust_code else ''})"
    return f"{target}: pruned.json and model.safetensors; {load} gives the network"


def to_onnx(folder: Path, target: Path, trust_code: bool = False) -> str:
    """Write `target` as ONNX with a free batch size and check it in onnxruntime. UserError without the extras."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'raybench[export]'") from error
    model, images = _network(folder, trust_code)
    about = about_network(folder)
    with _quietly():
        program = torch.onnx.export(
            model, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False,
            input_names=[about["input"]], output_names=[about["output"]] if "output" in about else None,
        )  # fmt: skip
        assert program is not None  # with dynamo=True
        program.model.metadata_props.update(about)
        program.save(str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    apart = _checked("onnxruntime", model, images, [torch.from_numpy(np.asarray(f)) for f in found])
    return f"{target}: ONNX, batch size free; outputs differ from torch's by {apart:.1e} in onnxruntime"


def to_program(folder: Path, target: Path, trust_code: bool = False) -> str:
    """Write `target` as a ``torch.export`` program with a free batch size."""
    model, images = _network(folder, trust_code)
    with _quietly():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, target, extra_files={ABOUT: json.dumps(about_network(folder), indent=1)})
        found = torch.export.load(target).module()(images)
    apart = _checked("torch.export", model, images, [f.detach() for f in _flat(found)])
    return f"{target}: torch.export program, batch size free; outputs differ by {apart:.1e}"


def to_ultralytics(folder: Path, target: Path, trust_code: bool = False) -> str:
    """Write a detector as a checkpoint for ``ultralytics.YOLO``. UserError for any other network."""
    model, data = load_pruned(folder, trust_code=trust_code), read_recipe(folder).data
    save = getattr(model, "save_for_ultralytics", None)
    if save is None:
        others = ", ".join(sorted(EXPORTS.keys() - {"ultralytics"}))
        kind = type(model).__name__
        raise UserError(f"--format ultralytics (.pt): {kind} is not a detector of ultralytics; expected {others}")
    save(target, data.class_names or [str(i) for i in range(data.classes)], data.image_size)
    return f"{target}: ultralytics checkpoint; YOLO({str(target)!r}) predicts with it"


def about_network(folder: Path) -> dict[str, str]:
    """What a user of the network in `folder` needs to know, as texts by name.

    Returns:
        `input` and, of a classifier, `output`: names of tensors; `input_shape` (channels, height, width) and the
        `mean` and `std` that images scaled to 0..1 are normalised with; `classes`, their names in order; and
        `model`. What isn't text itself is JSON.
    """
    saved = read_recipe(folder)
    data = saved.data
    facts = {"input_shape": data.image_shape, "mean": data.mean, "std": data.std, "classes": data.class_names}
    output = {"output": "logits"} if data.task == "classification" else {}
    shown = {name: json.dumps(value) for name, value in facts.items() if value}
    return {"input": "input", **output, **shown, "model": saved.model}


EXPORTS: dict[str, tuple[str, Writer]] = {  # format -> (file suffix, writer)
    "safetensors": ("", to_safetensors),
    "onnx": (".onnx", to_onnx),
    "torch-export": (".pt2", to_program),
    "ultralytics": (".pt", to_ultralytics),
}


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Inside, the loggers `names` drop what is less than an error; "" is the root."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _quietly() -> Iterator[None]:
    """Drop the exporters' log lines and warnings: what counts is that the outputs are equal, which is checked."""
    with errors_only(*EXPORTERS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _network(folder: Path, trust_code: bool) -> tuple[nn.Module, Tensor]:
    """The pruned network and three random images; exporters may treat smaller batches as special cases."""
    data = read_recipe(folder).data
    generator = torch.Generator().manual_seed(0)
    model = load_pruned(folder, trust_code=trust_code)
    for_export = getattr(model, "for_export", None)  # detectors leave out the outputs that only training needs
    model = for_export() if for_export else model
    return model, torch.randn(3, *data.image_shape, generator=generator)


def _flat(output: Any) -> list[Tensor]:
    """The tensors of nested sequences."""
    return [output] if isinstance(output, Tensor) else [t for part in output for t in _flat(part)]


def _checked(where: str, model: nn.Module, images: Tensor, found: list[Tensor]) -> float:
    """Largest difference relative to the largest output; StageError if it is above the tolerance."""
    with torch.no_grad():
        expected = _flat(model(images))
    apart = difference(expected, found, getattr(model, "box_output", None))
    if not apart <= TOLERANCE:
        raise StageError("export", f"{where} gives other outputs: they differ by {apart:.1e} of the largest")
    return apart
