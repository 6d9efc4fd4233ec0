"""Detectors of every family: trained a step, cut to 1.5x, trained, measured, and written for ultralytics."""

from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.cost import count_macs
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.models.offline import offline
from raybench.models.ultralytics import Detector, yolo
from raybench.models.ultralytics_checkpoint import read_checkpoint
from raybench.models.ultralytics_classify import Classifier
from raybench.models.ultralytics_rtdetr import TransformerDetector, rtdetr
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks import detection_loss
from raybench.tasks.detection import Detection, DetectionLoss
from raybench.tasks.detection_images import PlainImages, TrainingImages
from tests.unit.test_detection_steps import data_of, images_of

with offline():
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel, RTDETRDetectionModel

CPU = torch.device("cpu")
SIZE = 64
STEP = TrainRecipe(epochs=1, lr=0.001, batch_size=8, optimizer="adamw", augment=("mosaic", "flip"))
FAMILIES = {
    "yolov3-tiny": ("yolov3-tiny", ""), "yolov5": ("yolov5", "tiny"), "yolov6": ("yolov6", "tiny"),
    "yolov8": ("yolov8", "tiny"), "yolov9": ("yolov9", "t"), "yolov10": ("yolov10", "tiny"),
    "yolo11": ("yolo11", "tiny"), "yolo12": ("yolo12", "n"), "yolo26": ("yolo26", "tiny"), "rtdetr": ("rtdetr-", "l"),
}  # fmt: skip
QUICK = {"yolov5", "yolov10"}  # one with suppression, one without
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


class NoCheckpoint:
    """Training that nothing continues."""

    def load(self):
        return None

    def save(self, state):
        pass


def built(name, classes=2):
    torch.manual_seed(0)
    config, scale = FAMILIES[name]
    return (rtdetr if name == "rtdetr" else yolo)(classes, 3, SIZE, config=config, scale=scale)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*keeps its width")
def test_a_family_is_trained_cut_measured_and_exported(name, tmp_path):
    task, model = Detection(data_of(images_of()), CPU), built(name)
    task.check(model)
    before = task.train(model, STEP, seed=0, checkpoint=NoCheckpoint())
    assert math.isfinite(before.curve[-1]["train_loss"])
    example = torch.zeros(1, 3, SIZE, SIZE)
    groups = trace(model.eval(), example, classes=2)
    cut = select(Scoring(registry.importance.load("magnitude-l2")(), model), example, groups, [1.5])[1.5]
    assert abs(cut.speedup / 1.5 - 1) <= 0.005
    surgery.apply(model, groups, cut.kept)
    assert count_macs(model, example) == cut.macs
    task.train(model, STEP, seed=0, checkpoint=NoCheckpoint())
    found = task.evaluate(model, "test")
    assert math.isfinite(found["loss"])
    calibration = task.calibration(2, 2, 0)
    for outputs in (model.train()(calibration.images[0:2]), model.eval()(calibration.images[0:2])):
        assert math.isfinite(float(calibration.loss(outputs, calibration.labels).detach()))

    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    model.eval().save_for_ultralytics(tmp_path / "pruned.pt", ["a", "b"], SIZE)
    from ultralytics import YOLO

    loaded = YOLO(tmp_path / "pruned.pt")
    with torch.no_grad():
        theirs, ours = loaded.model.eval()(images), model(images)
    if name == "rtdetr":  # torch's fast path of attention; of boxes that score alike the order may change
        torch.testing.assert_close(theirs[1][:4], ours[1][:4])
    else:
        assert torch.equal(theirs[0], ours[0])
    assert set(model.own_names(read_checkpoint(tmp_path / "pruned.pt")))  # an allowed list of classes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov10", "rtdetr"])
@pytest.mark.filterwarnings("ignore")
def test_a_program_of_torch_export_gives_the_same_boxes(name):
    model = built(name).eval().for_export()
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize("name", ["yolov10", "yolo26"])
def test_two_branches_are_weighted_by_epoch_as_in_ultralytics(name):
    model = built(name)
    criterion = detection_loss.criterion_of(model)
    weights = []
    for epoch in range(5):
        detection_loss.at_epoch(criterion, epoch, 5)
        weights.append((criterion.o2m, criterion.o2o))
    assert weights == [pytest.approx((w, 1 - w)) for w in (0.8, 0.625, 0.45, 0.275, 0.1)]
    raw = model(torch.rand(2, 3, SIZE, SIZE))
    targets = torch.tensor([[[0, 0.5, 0.5, 0.4, 0.4]], [[1, 0.3, 0.5, 0.2, 0.4]]])
    whole, free = DetectionLoss(model)(raw, targets), DetectionLoss(None, SIZE)(raw, targets)
    assert float(free.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)


def test_a_stretched_image_keeps_its_boxes():
    images = images_of()
    plain = PlainImages(images, SIZE, stretched=True)
    for index in range(len(images)):
        assert plain[index][1].shape == (3, SIZE, SIZE)
        labels, shares = plain.padded(index, (SIZE, SIZE))
        corners = torch.from_numpy(shares) * SIZE
        corners = torch.cat([corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2], 1)
        found = torch.cat([corners, torch.ones(len(corners), 1), torch.from_numpy(labels)], 1)
        back = plain.in_original(found, (SIZE, SIZE), index)
        span = images.boxes_of(index)
        expected = torch.from_numpy(images.boxes[span][~images.crowd[span]]).float()
        torch.testing.assert_close(back[:, :4], expected, atol=1e-3, rtol=1e-4)
    square = TrainingImages(images, ["a", "b"], SIZE, {"mosaic": 0.0}, stretched=True)
    assert square.load_image(0)[0].shape == (SIZE, SIZE, 3)


def facts(task="detection"):
    return DataFacts("any", task, 2, 3, SIZE, (0.0,) * 3, (1.0,) * 3, "")


@pytest.mark.parametrize(
    ("made", "kind", "task"),
    [
        ('DetectionModel("yolo11n.yaml", nc=num_classes, verbose=False)', Detector, "detection"),
        ('YOLO("yolov8n.yaml").model', Detector, "detection"),
        ('YOLO("yolov8n.yaml", verbose=False)', Detector, "detection"),
        ('ClassificationModel("yolo11n-cls.yaml", nc=num_classes, verbose=False)', Classifier, "classification"),
        ('SegmentationModel("yolo11n-seg.yaml", nc=num_classes, verbose=False)', None, "detection"),
    ],
)
def test_a_function_that_returns_a_network_of_ultralytics(made, kind, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs_of_mine.py").write_text(
        "from ultralytics import YOLO\n"
        "from ultralytics.nn.tasks import ClassificationModel, DetectionModel, SegmentationModel\n"
        f"def net(num_classes):\n    return {made}\n"
    )
    monkeypatch.delitem(sys.modules, "theirs_of_mine", raising=False)
    if kind is None:
        with pytest.raises(UserError, match="is ultralytics' SegmentationModel; expected one for detection"):
            build_model("theirs_of_mine:net", facts())
        return
    model = build_model("theirs_of_mine:net", facts(task))
    assert type(model) is kind
    assert model.split_free
    assert all(parameter.requires_grad for parameter in model.parameters())
    if kind is Classifier:
        assert model.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 2)


def test_the_classifier_computes_what_ultralytics_computes(tmp_path):
    theirs = ClassificationModel("yolo11n-cls.yaml", nc=2, verbose=False).eval()
    torch.save({"model": theirs}, tmp_path / "theirs.pt")
    ours = build_model("yolo11n-cls", facts("classification")).eval()
    ours.load_state_dict(ours.read_weights(tmp_path / "theirs.pt"))
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images)[1], rtol=1e-5, atol=1e-5)


def test_every_family_has_names_and_official_classes_are_read():
    names = set(registry.model.entries())
    for family, scales in (
        ("yolov5", "nsmlx"), ("yolov6", "nsmlx"), ("yolov8", "nsmlx"), ("yolov9", "tsmce"), ("yolov10", "nsmblx"),
        ("yolo11", "nsmlx"), ("yolo12", "nsmlx"), ("yolo26", "nsmlx"),
    ):  # fmt: skip
        assert {f"{family}{scale}" for scale in scales} <= names
    assert {"rtdetr-l", "rtdetr-x", "rtdetr-resnet50", "yolo11n-cls", "yolov3-tiny"} <= names
    assert {TransformerDetector.__mro__[2], Detector.__mro__[2]} == {RTDETRDetectionModel, DetectionModel}
