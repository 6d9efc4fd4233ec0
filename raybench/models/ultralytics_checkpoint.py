"""Reads weights from an ultralytics checkpoint (a pickled module tree) without running any code of the file.

The file is read with `torch.load(weights_only=True)`. Class names must be in a list of exact names, and for each an
inert `Shell` is built that only keeps its attributes. No class of ultralytics or torch.nn is called, so no constructor
can be misused. The state dict is then collected from the shells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from raybench.errors import UserError
from raybench.models.file_kinds import kind_of
from raybench.models.tensors import read_tensors, tensors_in
from raybench.models.torch_files import Shell, load_inert

# Layers of the families that are registered, and what their training leaves beside them.
ALLOWED = (
    "torch.nn.modules.activation.GELU",
    "torch.nn.modules.activation.MultiheadAttention",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.conv.ConvTranspose2d",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
    "torch.nn.modules.loss.BCEWithLogitsLoss",
    "torch.nn.modules.normalization.LayerNorm",
    "torch.nn.modules.padding.ZeroPad2d",
    "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.sparse.Embedding",
    "torch.nn.modules.upsampling.Upsample",
    "ultralytics.nn.modules.block.A2C2f",
    "ultralytics.nn.modules.block.AAttn",
    "ultralytics.nn.modules.block.ABlock",
    "ultralytics.nn.modules.block.AConv",
    "ultralytics.nn.modules.block.ADown",
    "ultralytics.nn.modules.block.Attention",
    "ultralytics.nn.modules.block.Bottleneck",
    "ultralytics.nn.modules.block.C2PSA",
    "ultralytics.nn.modules.block.C2f",
    "ultralytics.nn.modules.block.C2fCIB",
    "ultralytics.nn.modules.block.C3",
    "ultralytics.nn.modules.block.C3k",
    "ultralytics.nn.modules.block.C3k2",
    "ultralytics.nn.modules.block.CBFuse",
    "ultralytics.nn.modules.block.CBLinear",
    "ultralytics.nn.modules.block.CIB",
    "ultralytics.nn.modules.block.DFL",
    "ultralytics.nn.modules.block.ELAN1",
    "ultralytics.nn.modules.block.HGBlock",
    "ultralytics.nn.modules.block.HGStem",
    "ultralytics.nn.modules.block.PSA",
    "ultralytics.nn.modules.block.PSABlock",
    "ultralytics.nn.modules.block.RepBottleneck",
    "ultralytics.nn.modules.block.RepC3",
    "ultralytics.nn.modules.block.RepCSP",
    "ultralytics.nn.modules.block.RepNCSPELAN4",
    "ultralytics.nn.modules.block.RepVGGDW",
    "ultralytics.nn.modules.block.ResNetBlock",
    "ultralytics.nn.modules.block.ResNetLayer",
    "ultralytics.nn.modules.block.SCDown",
    "ultralytics.nn.modules.block.SPPELAN",
    "ultralytics.nn.modules.block.SPPF",
    "ultralytics.nn.modules.conv.Concat",
    "ultralytics.nn.modules.conv.Conv",
    "ultralytics.nn.modules.conv.DWConv",
    "ultralytics.nn.modules.conv.LightConv",
    "ultralytics.nn.modules.conv.RepConv",
    "ultralytics.nn.modules.head.Classify",
    "ultralytics.nn.modules.head.Detect",
    "ultralytics.nn.modules.head.RTDETRDecoder",
    "ultralytics.nn.modules.head.v10Detect",
    "ultralytics.nn.modules.transformer.AIFI",
    "ultralytics.nn.modules.transformer.DeformableTransformerDecoder",
    "ultralytics.nn.modules.transformer.DeformableTransformerDecoderLayer",
    "ultralytics.nn.modules.transformer.MLP",
    "ultralytics.nn.modules.transformer.MSDeformAttn",
    "ultralytics.nn.tasks.ClassificationModel",
    "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.nn.tasks.RTDETRDetectionModel",
    "ultralytics.nn.tasks.YOLOv10DetectionModel",
    "ultralytics.utils.IterableSimpleNamespace",
    "ultralytics.utils.loss.BboxLoss",
    "ultralytics.utils.loss.DFLoss",
    "ultralytics.utils.loss.E2EDetectLoss",
    "ultralytics.utils.loss.E2ELoss",
    "ultralytics.utils.loss.v10DetectLoss",
    "ultralytics.utils.loss.v8ClassificationLoss",
    "ultralytics.utils.loss.v8DetectionLoss",
    "ultralytics.utils.tal.TaskAlignedAssigner",
)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in the checkpoint or state-dict file `path`, in the file's own names and precision.

    A training checkpoint's averaged weights (`ema`) are preferred, as in ultralytics. UserError when the file is
    unreadable or contains a class that is not allowed.
    """
    if kind_of(path) == "safetensors":
        return read_tensors(path)
    found = load_inert(path, ALLOWED)
    for key in ("ema", "model", "state_dict"):
        if isinstance(found, Mapping) and found.get(key) is not None:
            found = found[key]
            break
    state = dict(found.tensors()) if isinstance(found, Shell) else tensors_in(found, path)
    if not state:
        raise UserError(f"{path}: found no weights; expected an ultralytics checkpoint or a state dict of tensors")
    return {name: value.detach() for name, value in state.items()}
