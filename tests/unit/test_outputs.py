"""`raybench.prune` on networks that return something else than one tensor of class scores, and mistakes about it."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import raybench
from raybench.errors import NotSupported, UserError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)
Named = namedtuple("Named", "logits features")


class Wrapped(nn.Module):
    """Two convolutions and a classifier, whose class scores are returned by `wrap(scores, features)`."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.classifier = nn.Linear(16, 5)

    def forward(self, images):
        features = self.second(self.first(images).relu()).relu()
        return self.wrap(self.classifier(features.mean((2, 3))), features)


def net(wrap=lambda scores, features: scores):
    torch.manual_seed(0)
    return Wrapped(wrap)


def kept(wrap, criterion):
    pruned = raybench.prune(net(wrap), IMAGES[:1], 1.5, criterion, schedule="one-shot", calibration=(IMAGES, LABELS))
    assert pruned.reason is None or pruned.reason.startswith("granularity")
    return pruned.kept


ONE = {  # outputs with the same class scores, and no other tensor
    "dict": lambda scores, _: {"out": scores},
    "any name": lambda scores, _: {"classes": scores, "count": 3, "none": None},
    "transformers": lambda scores, _: OrderedDict(logits=scores),
    "object": lambda scores, _: SimpleNamespace(logits=scores),
    "tuple": lambda scores, _: (scores,),
    "list": lambda scores, _: [scores],
}
TWO = {  # another tensor beside them, whose channels must stay
    "dict": lambda scores, features: {"out": scores, "aux": features},
    "reversed": lambda scores, features: {"features": features, "logits": scores},
    "named tuple": Named,
    "object": lambda scores, features: SimpleNamespace(logits=scores, features=[features]),
}


@pytest.mark.parametrize(
    ("name", "criterion"), [*((name, "taylor") for name in ONE), ("dict", "obd-c"), ("tuple", "obd-hessian")]
)
def test_wrapped_class_scores_are_pruned_as_bare_ones(name, criterion):
    assert kept(ONE[name], criterion) == kept(lambda scores, _: scores, criterion)


@pytest.mark.parametrize("name", TWO)
def test_every_returned_tensor_keeps_its_width(name):
    assert list(kept(TWO[name], "taylor")) == ["first"]


def test_the_network_returns_what_it_returned():
    pruned = raybench.prune(net(ONE["dict"]), IMAGES[:1], 1.5, "taylor", calibration=(IMAGES, LABELS)).model
    assert pruned(IMAGES)["out"].shape == (4, 5)
    assert not pruned._forward_hooks


def test_a_loss_of_ones_own_gets_the_whole_output_and_its_own_labels():
    seen = []

    def loss(output, labels):
        seen.append((sorted(output), labels.dtype))
        return (output["scores"].mean(1) - labels).square().mean()

    model = net(lambda scores, features: {"scores": scores, "features": features})
    pruned = raybench.prune(model, IMAGES[:1], 1.5, "taylor", calibration=(IMAGES, torch.rand(4)), loss=loss)
    assert pruned.speedup == pytest.approx(1.5, rel=0.1)
    assert set(map(str, seen)) == {str((["features", "scores"], torch.float32))}


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda scores, features: (scores, features), r"Wrapped returns tuple of 0: tensor \(1, 5\), 1: tensor"),
        (lambda scores, features: {"x": scores, "y": features}, r"returns dict of x: .*'logits' or 'out'. Give loss="),
        (lambda scores, _: scores.sum(1), r"returns a tensor \(1,\); expected class scores \(images, classes\)"),
        (lambda scores, _: "text", r"model: Wrapped returns str, expected a tensor or several"),
        (lambda scores, _: {"count": 3}, r"model: Wrapped returns dict of count: int, expected a tensor"),
    ],
)
def test_outputs_without_class_scores_are_named(wrap, message):
    with pytest.raises(UserError, match=message):
        kept(wrap, "taylor")


@pytest.mark.parametrize("criterion", ["magnitude-l2", "taylor"])
def test_a_network_that_returns_detections_is_refused(criterion):
    def detections(scores, features):
        return [{"boxes": row.reshape(1, 5), "scores": row} for row in scores]

    with pytest.raises(
        NotSupported, match=r"Wrapped returns detections .* net.backbone = raybench.prune\(net.backbone"
    ):
        kept(detections, criterion)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"calibration": (IMAGES, torch.tensor([0, 1, 2, 9]))}, "calibration: found label 9, expected 0 to 4"),
        (
            {"calibration": (IMAGES, LABELS[:, None])},
            r"found labels \(4, 1\) for class scores \(4, 5\), expected \(4,\)",
        ),
        ({"calibration": (IMAGES[:, :1], LABELS)}, r"found images \(4, 1, 8, 8\), expected some like the example"),
        ({"calibration": (IMAGES[0], LABELS[:3])}, r"found images \(3, 8, 8\), expected some like the example"),
        ({"loss": 3}, "loss: found int 3, expected a function"),
        ({"loss": lambda output, labels: 3.0}, "loss: the function returned float, expected one number"),
        ({"loss": lambda output, labels: output.sum(1)}, r"the function returned a tensor \(4,\), expected one number"),
        ({"keep": ["secnd"]}, "keep: Wrapped has no module 'secnd'. Did you mean 'second'"),
        ({"keep": "second"}, r"keep: found str 'second', expected a list of names, such as \['second'\]"),
        ({"keep": 1}, "keep: found int 1, expected a list of names"),
        ({"parts": ["head"]}, "parts: unknown part 'head'. Did you mean 'heads'"),
        ({"parts": "mlp"}, r"parts: found str 'mlp', expected a list of names, such as \['mlp'\]"),
    ],
)
def test_mistakes_name_the_argument(how, message):
    with pytest.raises(UserError, match=message):
        raybench.prune(net(), IMAGES[:1], 1.5, "taylor", **{"calibration": (IMAGES, LABELS)} | how)
