"""The detection task: mAP against COCO's own evaluation, losses, training that a kill doesn't change."""

import copy
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench import registry
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.groups.trace import trace
from raybench.models.ultralytics import normalised, yolo
from raybench.models.weights import load_weights
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection import Detection
from raybench.tasks.detection_images import PlainImages
from raybench.tasks.detection_metrics import Meter, detections, in_original
from tests.coco_instances import as_instances

SHARED = Path(__file__).parents[3] / "shared" / "data"
here = pytest.mark.skipif(not SHARED.is_dir(), reason="the developer's data pack is not here")


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits-detection", {"train": 12, "val": 4, "test": 6, "image_size": 64}, None)


@pytest.fixture
def task(digits):
    return Detection(digits, torch.device("cpu"))


def detector(size=64, classes=10):
    torch.manual_seed(0)
    return yolo(classes, 3, size, config="yolov8", scale="tiny")


@cache
def groups_of(classes=None):
    """The groups of `detector()`, found once: that takes as long as all that the tests then compute."""
    return trace(detector() if classes is None else detector().eval(), torch.zeros(1, 3, 64, 64), classes=classes)


class Memory:
    """A checkpoint; `stop` epochs are let through, then the process "dies"."""

    def __init__(self, stop=99):
        self.state, self.stop, self.saved = None, stop, 0

    def load(self):
        return copy.deepcopy(self.state)

    def save(self, state):
        self.state = copy.deepcopy(state)
        self.saved += 1
        if self.saved == self.stop:
            raise KeyboardInterrupt


def truth_as_detections(images, number):
    span = images.boxes_of(number)
    single = ~images.crowd[span]
    boxes, classes = images.boxes[span][single], images.classes[span][single]
    return torch.from_numpy(np.column_stack([boxes, np.full(len(boxes), 0.9), classes])).float()


def test_the_truth_itself_gets_full_marks_and_a_crowd_costs_nothing(digits):
    images = digits.test
    meter = Meter(digits.names)
    for number in range(len(images)):
        meter.add(truth_as_detections(images, number), images, number)
    assert meter.result()["mAP50-95"] == pytest.approx(99.5)  # ultralytics' interpolation ends there
    flags = images.crowd.copy()
    flags[0] = True  # the first box is a crowd now: who finds it is neither right nor wrong
    from dataclasses import replace

    crowded = replace(images, crowd=flags)
    meter = Meter(digits.names)
    for number in range(len(images)):
        meter.add(truth_as_detections(images, number), crowded, number)
    assert meter.result()["mAP50"] == pytest.approx(99.5)


@here
@pytest.mark.parametrize(
    ("size", "expected"),
    [(320, (35.83, 50.40)), pytest.param(640, (42.23, 58.96), marks=pytest.mark.slow)],
)
def test_map_agrees_with_the_reference_and_with_cocos_own_evaluation(size, expected):
    coco = pytest.importorskip("faster_coco_eval")
    data = open_dataset("coco", {"image_size": size}, SHARED / "coco").splits[1].read()
    model = yolo(80, 3, size, config="yolov8", scale="n")
    load_weights(model, SHARED / "weights" / "yolov8n.pt")
    meter, results = Meter(data.names), []
    with torch.no_grad():
        for indices, pixels in PlainImages(data.images, size).batches(16, 0):
            for index, found in zip(indices, detections(model.eval()(normalised(pixels))[0]), strict=True):
                found = in_original(found, tuple(pixels.shape[2:]), tuple(data.images.sizes[index].tolist()))
                meter.add(found, data.images, index)
                results += [
                    {"image_id": index + 1, "category_id": int(c) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
                    for x1, y1, x2, y2, s, c in found.tolist()
                ]
    ours = meter.result()
    truth = coco.COCO(as_instances(data.images, data.names))
    judge = coco.COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *a: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    print(size, ours, judge.stats[:2])
    assert (ours["mAP50-95"], ours["mAP50"]) == pytest.approx(expected, abs=0.5)
    assert (ours["mAP50-95"], ours["mAP50"]) == pytest.approx(100 * np.array(judge.stats[:2]), abs=0.5)


RECIPE = TrainRecipe(epochs=3, batch_size=6, optimizer="adamw", lr=0.002, weight_decay=5e-4, ema=0.9,
                     augment=("mosaic", "hsv", "shift", "scale", "flip"))  # fmt: skip


def test_a_killed_training_ends_with_the_same_weights(task):
    whole, killed = detector(), detector()
    straight = task.train(whole, RECIPE, seed=3, checkpoint=Memory())
    memory = Memory(stop=2)
    with pytest.raises(KeyboardInterrupt):
        task.train(killed, RECIPE, seed=3, checkpoint=memory)
    memory.stop = 99
    killed = detector()
    resumed = task.train(killed, RECIPE, seed=3, checkpoint=memory)
    assert resumed.resumed_from == 2
    assert resumed.curve == straight.curve
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True)
    )
    assert len({epoch["train_loss"] for epoch in straight.curve}) == 3


def test_training_lowers_the_loss_and_leaves_the_heads_integral_alone(task):
    model = detector()
    recipe = TrainRecipe(epochs=6, batch_size=6, optimizer="adamw", lr=0.003)
    training = task.train(model, recipe, seed=0, checkpoint=Memory(), select="last")
    losses = [epoch["train_loss"] for epoch in training.curve]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(model.model[-1].dfl.conv.weight.flatten(), torch.arange(16.0))


def test_calibration_is_seeded_and_its_loss_is_the_training_loss(task):
    one, other = (task.calibration(5, 2, seed=4) for _ in range(2))
    assert torch.equal(one.images[0:5], other.images[0:5])
    assert one.images[0:5].shape == (5, 3, 64, 64)
    model = detector()
    raw = model.train()(one.images[0:5])
    from raybench.tasks.detection import DetectionLoss

    assert torch.allclose(one.loss(raw, one.labels), DetectionLoss(model)(raw, one.labels))
    with pytest.raises(UserError, match="sets 99 calibration images, the training split has 12"):
        task.calibration(99, 2, seed=0)


def test_calibration_holds_one_batch_at_a_time(task, monkeypatch):
    read, size = [], []
    plain = PlainImages.__getitem__
    monkeypatch.setattr(PlainImages, "__getitem__", lambda self, i: read.append(i) or plain(self, i))
    calibration = task.calibration(6, 2, seed=0)
    assert read == []
    net, groups = detector().eval(), groups_of(10)
    net.register_forward_pre_hook(lambda module, inputs: size.append((len(inputs[0]), len(read))))
    gather(registry.importance.load("taylor")(), net, groups, calibration)
    assert size == [(2, 2), (2, 4), (2, 6)]  # images in the batch, images read till then


@pytest.mark.parametrize("name", ["taylor", "obd-hessian", "hrank", "thinet", "magnitude-l2", "bn-scale"])
def test_criteria_reach_a_detectors_speedup(task, name):
    model = detector().eval()
    groups = groups_of(10)
    criterion = registry.importance.load(name)()
    calibration = None if criterion.needs in ("nothing", "weights") else task.calibration(4, 2, 0)
    scoring = Scoring(criterion, model, calibration)
    cuts = select(scoring, torch.zeros(1, 3, 64, 64), groups, [2.0], schedule="one-shot")
    assert cuts[2.0].speedup == pytest.approx(2, rel=0.005)


@pytest.mark.parametrize("name", ["group-lasso", "bn-group-lasso", "group-norm", "growing-reg", "bn-scale"])
def test_regularizers_change_what_is_learned(task, name):
    recipe = TrainRecipe(epochs=1, batch_size=12, lr=0.001)
    plain, sparse = detector(), detector()
    task.train(plain, recipe, seed=0, checkpoint=Memory(), select="last")
    regularizer = registry.regularizer.load(name)()
    regularizer.bind(sparse, groups_of())
    task.train(sparse, recipe, seed=0, checkpoint=Memory(), regularizer=regularizer, select="last")
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), sparse.parameters(), strict=True))
    assert all(bool(p.isfinite().all()) for p in sparse.parameters())


def test_what_a_detector_cant_do_is_told_before_training(task):
    with pytest.raises(UserError, match="has 10 classes, the model 4"):
        task.train(detector(classes=4), RECIPE, seed=0, checkpoint=Memory())
    with pytest.raises(UserError, match="needs a detection model; found Linear"):
        task.evaluate(torch.nn.Linear(2, 2), "val")
    with pytest.raises(UserError, match="augment: found 'crop'; detection has"):
        task.train(detector(), TrainRecipe(epochs=1, lr=0.1, augment=("crop",)), seed=0, checkpoint=Memory())
    with pytest.raises(UserError, match=r"label_smoothing: found 0\.1"):
        task.train(detector(), TrainRecipe(epochs=1, lr=0.1, label_smoothing=0.1), seed=0, checkpoint=Memory())
