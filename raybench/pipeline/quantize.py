"""Static int8 quantisation of a pruned network by onnxruntime, with the accuracy and latency of both ONNX files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.pipeline.export import errors_only, to_onnx
from raybench.pipeline.measure import ONE, median_ms
from raybench.storage.base import Storage
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task


@dataclass(frozen=True)
class OnnxFigures:
    """What one ONNX file reaches in onnxruntime on the CPU."""

    name: str
    metric: float  # on the test split, in percent
    latency_ms: float  # of one image
    bytes: int


@dataclass(frozen=True)
class Quantized:
    """The figures of both files; `images` were used for calibration."""

    metric_name: str
    plain: OnnxFigures
    int8: OnnxFigures
    images: int


class _Session(nn.Module):
    """An ONNX file as a network."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.input_name = self._session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._session.run(None, {self.input_name: images.numpy()})[0]))


class _Images:
    """Calibration batches as onnxruntime asks for them; its interface is the method's name."""

    def __init__(self, images: Tensor, name: str, batch_size: int) -> None:
        self._left: Iterator[Mapping[str, Any]] = iter([{name: part.numpy()} for part in images.split(batch_size)])

    def get_next(self) -> Mapping[str, Any] | None:
        """The next batch; None at the end."""
        return next(self._left, None)


def quantize(
    folder: Path, target: Path, trial: Trial, data_roots: Mapping[str, Path], storage: Storage, trust_code: bool = False
) -> Quantized:
    """Write the network in `folder` as int8 ONNX to `target`, calibrated on the trial's calibration images.

    Raises:
        UserError: an extra is missing, the data can't be read, or the network is no classifier.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise UserError(f"--quantize needs {error.name}: pip install 'raybench[export]'") from error
    if trial.task != "classification":
        raise UserError(f"--quantize: found a network for {trial.task}, expected one for classification")
    task = open_task(trial, data_roots, torch.device("cpu"), storage)
    recipe = trial.recipe
    count = min(recipe.calibration_images, task.training_images)  # prune takes smaller splits whole, too
    images = task.calibration(count, recipe.calibration_batch, trial.seed).images
    CalibrationDataReader.register(_Images)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        to_onnx(folder, plain, trust_code)
        fp32 = _Session(plain)
        reader = _Images(images, fp32.input_name, recipe.calibration_batch)
        with errors_only(""):  # onnxruntime advises its own preparation, which torch's exporter has done
            quantize_static(
                plain, target, reader, quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        found = []
        for name, net, file in (("fp32", fp32, plain), ("int8", _Session(target), target)):
            metric = task.evaluate(net, "test")[task.metric]
            found.append(OnnxFigures(name, metric, median_ms(net, images[:1], ONE), file.stat().st_size))
    return Quantized(task.metric, found[0], found[1], len(images))
