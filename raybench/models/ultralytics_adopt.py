"""Networks of ultralytics that a user's own function returns, as those that raybench registers by name."""

from __future__ import annotations

from torch import nn

from raybench.errors import UserError
from raybench.models.offline import offline
from raybench.models.ultralytics import Detector
from raybench.models.ultralytics_classify import Classifier
from raybench.models.ultralytics_rtdetr import TransformerDetector

with offline():
    from ultralytics.engine.model import Model
    from ultralytics.nn.tasks import BaseModel, ClassificationModel, DetectionModel, RTDETRDetectionModel

OURS: dict[type[nn.Module], type[Detector | TransformerDetector | Classifier]] = {
    DetectionModel: Detector,
    RTDETRDetectionModel: TransformerDetector,
    ClassificationModel: Classifier,
}


def adopted(model: nn.Module, name: str) -> nn.Module:
    """`model`, a `YOLO(...)`, `RTDETR(...)` or the network in it, without split operations, changed in place.

    Others of a user's own classes are returned as they are. UserError for ultralytics' other tasks.
    """
    if isinstance(model, Model):
        inner = model.model
        if not isinstance(inner, nn.Module):
            raise UserError(
                f"model {name!r} is ultralytics' {inner}, exported; expected a network of torch (.pt, .yaml)"
            )
        model = inner
    kind = OURS.get(type(model))
    if kind is None:
        if isinstance(model, BaseModel) and type(model).__module__.startswith("ultralytics."):
            task = type(model).__name__
            raise UserError(f"model {name!r} is ultralytics' {task}; expected one for detection or classification")
        return model
    model.__class__ = kind
    assert isinstance(model, (Detector, TransformerDetector, Classifier))  # as `kind` is
    model.prepare()
    return model.float()
