"""What tasks pass on, as whole calls: training of both tasks, losses of each kind of head, readers of images."""

from __future__ import annotations

import importlib.util
import logging
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.datasets.boxes import BoxData, BoxImages
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import StageError, UserError
from raybench.models.ultralytics import yolo
from raybench.progress.epochs import EPOCHS
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks import (
    classification,
    detection,
    detection_images,
    detection_loss,
    detection_pixels,
    detection_training,
)
from raybench.tasks.classification import Classification
from raybench.tasks.detection import Detection
from raybench.tasks.detection_images import Failed, PlainImages, TrainingImages
from raybench.tasks.protocol import Training
from raybench.tasks.training import loop
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.loop import EpochInputs, fit
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import generator
from raybench.tasks.training.team import ALONE
from tests.kept import Kept

CPU = torch.device("cpu")
RECIPE = TrainRecipe(epochs=3, batch_size=10, lr=0.1, start_scale=0.5, amp=True)
DONE = Training(({"epoch": 1.0},), 1, 2.5, 0)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return yolo(2, 3, 64, config="yolov8", scale="tiny")


def boxes(classes: int = 2, folder: Path | None = None, files: tuple[str, ...] = ("0.png", "1.png")) -> BoxData:
    pixels = () if folder else tuple(np.full((64, 64, 3), 50 * n, np.uint8) for n in range(2))
    found = np.array([[0.0, 0, 32, 32], [8, 8, 40, 24]])
    flags = np.zeros(2, bool)
    images = BoxImages(
        files, np.full((2, 2), 64), np.arange(3), found, np.arange(2), flags, folder=folder, pixels=pixels
    )
    facts = DataFacts("mine", "detection", classes, 3, 64, (0.0,) * 3, (1.0,) * 3, "")
    return BoxData(facts, ("a", "b"), images, images, images, "")


def test_a_detector_is_checked_by_its_kind_and_its_classes(detector) -> None:
    task = Detection(boxes(), CPU)
    task.check(detector)
    assert task._checked(detector) is detector
    with pytest.raises(UserError) as error:
        task.check(nn.Linear(1, 1))
    assert str(error.value) == "dataset 'mine' needs a detection model; found Linear"
    with pytest.raises(UserError) as error:
        Detection(boxes(classes=3), CPU).check(detector)
    assert str(error.value) == "dataset 'mine' has 3 classes, the model 2"
    assert (task.data.class_names, task.data.classes, task._side, task.metric) == (("a", "b"), 2, 64, "mAP50-95")
    task.check_recipe((TrainRecipe(epochs=1, lr=1),), 2)
    with pytest.raises(UserError, match="sets 3 calibration images, the training split has 2"):
        task.check_recipe((), 3)
    with pytest.raises(UserError, match="found 'crop'"):
        task.check_recipe((TrainRecipe(epochs=1, lr=1), TrainRecipe(epochs=1, lr=1, augment=("crop",))), 1)
    with pytest.raises(UserError) as error:
        detection_training.check_recipe(RECIPE)
    assert str(error.value) == "start_scale: found 0.5; not supported for detection, expected 1"


@pytest.mark.parametrize(("select", "split"), [("val", "val"), ("test", "test"), ("last", "val")])
def test_a_detector_is_trained_with_all_that_was_given(select, split, detector, monkeypatch) -> None:
    calls, evaluated, made = [], [], []
    monkeypatch.setattr(detection, "fit", lambda *args, **named: calls.append((args, named)) or DONE)
    monkeypatch.setattr(detection, "make_optimizer", lambda *args: made.append(args) or "optimizer")
    task, checkpoint, penalty = Detection(boxes(), CPU), Kept(), object()
    monkeypatch.setattr(task, "evaluate", lambda net, name: evaluated.append((net, name)) or {"loss": 1.0})
    recipe = TrainRecipe(epochs=2, lr=0.1)
    for parameter in detector.head.dfl.parameters():
        parameter.requires_grad_(True)
    found = task.train(detector, recipe, seed=7, checkpoint=checkpoint, regularizer=penalty, select=select)
    ((args, named),) = calls
    model, inputs, one_epoch, optimizer = args
    assert (found, model, one_epoch, optimizer) == (DONE, detector, detection_training.run_epoch, "optimizer")
    assert made == [(detector, recipe, CPU)]
    assert (inputs.data, inputs.recipe, inputs.seed, inputs.device) == (task._data, recipe, 7, CPU)
    assert type(inputs.loss).__name__ == "v8DetectionLoss"
    validate = named.pop("validate")
    assert named == {
        "checkpoint": checkpoint, "regularizer": penalty, "metric": "mAP50-95", "keep_best": select != "last",
        "team": ALONE, "state": None,
    }  # fmt: skip
    assert (validate("net"), evaluated) == ({"loss": 1.0}, [("net", split)])
    assert not any(parameter.requires_grad for parameter in detector.head.dfl.parameters())


def test_heads_without_an_integral_have_nothing_to_freeze() -> None:
    linear = nn.Linear(2, 2)
    detection_training.freeze_integral(types.SimpleNamespace(head=types.SimpleNamespace(dfl=None, other=linear)))
    detection_training.freeze_integral(types.SimpleNamespace(head=types.SimpleNamespace(other=linear)))
    assert linear.weight.requires_grad
    detection_training.freeze_integral(types.SimpleNamespace(head=types.SimpleNamespace(dfl=linear)))
    assert not linear.weight.requires_grad


def small(device=CPU, speed=None) -> Classification:
    """A task of 35 training images of 2 x 3 pixels."""
    facts = DataFacts("x", "classification", 3, 1, (2, 3), (0.5,), (0.25,), "")
    pixels = Pixels(torch.rand(60, 1, 2, 3, generator=generator(5)))
    spans = ((0, 35), (35, 48), (48, 60), (0, 48))
    splits = [TensorImages(pixels, torch.arange(60) % 3, torch.arange(*span)) for span in spans]
    return Classification(Data(facts, *splits, ""), device, *([speed] if speed else []))


@pytest.mark.parametrize(("select", "split"), [("val", "val"), ("test", "test"), ("last", "val")])
def test_a_classifier_is_trained_with_all_that_was_given(select, split, monkeypatch) -> None:
    calls, chosen, made, closed = [], [], [], []
    computing = Computing("bf16", speed_note="noted")

    class Watched(classification.Stepper):
        def close(self):
            closed.append(len(calls))
            return Computing("fp32", graphs="on")

    monkeypatch.setattr(classification, "fit", lambda *args, **named: calls.append((args, named)) or DONE)
    monkeypatch.setattr(classification, "choose", lambda *args, **named: chosen.append((args, named)) or computing)
    monkeypatch.setattr(classification, "make_optimizer", lambda *args: made.append(args) or "optimizer")
    monkeypatch.setattr(classification, "Stepper", Watched)
    speed = Speed(precision="bf16")
    task, net, teacher = small(speed=speed), nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), nn.Identity()
    evaluated = []
    monkeypatch.setattr(task, "evaluate", lambda model, name: evaluated.append((model, name)) or {"loss": 1.0})
    checkpoint, penalty = Kept(), object()
    found = task.train(net, RECIPE, seed=7, checkpoint=checkpoint, regularizer=penalty, teacher=teacher, select=select)
    ((args, named),) = calls
    assert chosen == [((net, speed, CPU, (10, 1, 2, 3)), {"amp": True, "before": None})]
    assert made == [(net, RECIPE, CPU)]
    assert (args[0], args[2], args[3]) == (net, classification.run_epoch, "optimizer")
    inputs, validate = args[1], named.pop("validate")
    assert named.pop("team") is ALONE
    assert inputs == EpochInputs(
        task._splits.train, RECIPE, task._normalise, 7, CPU, inputs.stepper, drop_last=select == "test"
    )
    stepper = inputs.stepper
    assert (stepper.recipe, stepper.computing, stepper.device, stepper.teacher) == (RECIPE, computing, CPU, teacher)
    assert named == {
        "checkpoint": checkpoint, "regularizer": penalty, "metric": "top1", "keep_best": select != "last",
        "computing": computing, "state": None,
    }  # fmt: skip
    assert (validate("net"), evaluated) == ({"loss": 1.0}, [("net", split)])
    assert closed == [1], "after the training"
    shown = {"precision": "fp32", "memory_format": "nchw", "deterministic": True, "graphs": "on", "compile": "off"}
    assert found.computing == shown | {"speed_note": None, "train_pixels": 1.0}
    assert (found.curve, found.selected_epoch, found.seconds_per_epoch) == (DONE.curve, 1, 2.5)


def test_a_stage_counts_its_steps_for_compiling_and_is_closed_when_it_fails(monkeypatch) -> None:
    closed, task, net = [], small(), nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    monkeypatch.setattr(classification, "choose", lambda *args, **named: Computing(compile="auto"))
    monkeypatch.setattr(classification.Stepper, "close", lambda self: closed.append(self._compiling._note))

    def broken(*args, **named):
        raise StageError("x", "broken")

    monkeypatch.setattr(classification, "fit", broken)
    with pytest.raises(StageError):
        task.train(net, RECIPE, seed=0, checkpoint=Kept())
    assert closed == ["not compiled: 12 steps left"]  # 3 epochs of 4 batches


def fitted(monkeypatch, caplog, kept, *, resume: int = 0, **more):
    """`fit` by a clock that moves 2 s in an epoch, 3 s in a validation and none elsewhere."""
    now, net = [100.0], nn.Linear(1, 1, bias=False)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    calls = []

    def one_epoch(progress, inputs, epoch) -> float:
        assert progress.model is net
        now[0] += 2
        calls.append(epoch)
        with torch.no_grad():
            net.weight.fill_(10.0 + epoch)
        return 0.25 * (epoch + 1)

    def validate(model) -> dict[str, float]:
        now[0] += 3
        return {"metric": -abs(model.weight.item() - 11), "loss": model.weight.item()}

    inputs = types.SimpleNamespace(recipe=TrainRecipe(epochs=4, lr=0.1, **more), device=CPU)
    with caplog.at_level(logging.INFO, logger=EPOCHS):
        trained = fit(net, inputs, one_epoch, optimizer, checkpoint=kept, state=kept.load(), regularizer=None,
                      validate=validate, metric="metric", keep_best=True)  # fmt: skip
    return trained, net, calls, [(r.left, r.each) for r in caplog.records]


def test_the_loop_times_epochs_without_validation_and_keeps_the_best(monkeypatch, caplog) -> None:
    kept = Kept()
    trained, net, calls, logged = fitted(monkeypatch, caplog, kept)
    assert calls == [0, 1, 2, 3]
    assert logged == [(15.0, 5.0), (10.0, 5.0), (5.0, 5.0), (0.0, 5.0)]
    entry = {"lr": 0.5}
    assert trained.curve == tuple(
        {"epoch": e + 1, **entry, "train_loss": 0.25 * (e + 1), "loss": 10.0 + e, "metric": -abs(e - 1.0)}
        for e in range(4)
    )
    assert (trained.selected_epoch, trained.seconds_per_epoch, trained.resumed_from, net.weight.item()) == (
        2,
        2.0,
        0,
        11,
    )
    caplog.clear()
    again, net, calls, logged = fitted(monkeypatch, caplog, kept)
    assert (again.curve, again.selected_epoch, again.seconds_per_epoch, again.resumed_from) == (
        trained.curve,
        2,
        0.0,
        4,
    )
    assert (calls, logged, net.weight.item()) == ([], [], 11)


def test_a_resumed_loop_counts_only_its_own_epochs(monkeypatch, caplog) -> None:
    kept = Kept(dies_after=1)
    with pytest.raises(Exception):  # noqa: B017, PT011  killed after the first save
        fitted(monkeypatch, caplog, kept)
    kept.left = None
    caplog.clear()
    trained, _, calls, logged = fitted(monkeypatch, caplog, kept)
    assert (calls, trained.resumed_from, trained.seconds_per_epoch) == ([1, 2, 3], 1, 2.0)
    assert logged == [(10.0, 5.0), (5.0, 5.0), (0.0, 5.0)]


def branch(levels: int = 2, images: int = 1) -> dict:
    feats = [torch.zeros(images, 1, 8 // 2**n, 8 // 2**n) for n in range(levels)]
    anchors = sum(level.shape[2] * level.shape[3] for level in feats)
    return {"feats": feats, "scores": torch.zeros(images, 5, anchors), "boxes": torch.zeros(images, 64, anchors)}


def test_losses_of_unknown_networks_follow_their_outputs() -> None:
    one = detection_loss.criterion_for(branch(), 64)
    assert type(one).__name__ == "v8DetectionLoss"
    assert (one.stride.tolist(), one.nc, one.reg_max) == ([8, 16], 5, 16)
    three = detection_loss.criterion_for(branch(3), None)
    assert three.stride.tolist() == [8, 16, 32]
    two = detection_loss.criterion_for({"one2many": branch(), "one2one": branch()}, 32)
    assert (type(two).__name__, two.one2many.stride.tolist()) == ("E2ELoss", [4, 8])
    queries = detection_loss.criterion_for((0, torch.zeros(1, 2, 3, 7)), None)
    assert isinstance(queries, detection_loss.QueryLoss)
    assert queries._loss.nc == 7
    assert queries._loss.vfl is not None


def test_two_branches_are_weighed_by_the_epoch() -> None:
    def weights(epoch: int, epochs: int) -> tuple[float, float]:
        loss = detection_loss.criterion_for({"one2many": branch(), "one2one": branch()}, 64)
        detection_loss.at_epoch(loss, epoch, epochs)
        return loss.o2m, loss.o2o

    ours = detection_loss.criterion_for({"one2many": branch(), "one2one": branch()}, 64)
    ours.one2one.hyp = detection_loss.get_cfg(overrides={"epochs": 10})
    for epoch in range(10):  # as ultralytics' trainer: an update before each epoch but the first
        if epoch:
            ours.update()
        assert weights(epoch, 10) == pytest.approx((ours.o2m, ours.o2o))
    assert weights(3, 10) != weights(3, 20)
    assert sum(weights(0, 0)) == pytest.approx(1)
    plain = detection_loss.criterion_for(branch(), 64)
    detection_loss.at_epoch(plain, 3, 10)


def test_sums_and_raw_outputs(detector) -> None:
    queries = detection_loss.QueryLoss(2)
    loss = torch.tensor(3.0)
    assert float(detection_loss.summed(queries, loss, 4)) == 12
    assert detection_loss.summed(detection_loss.criterion_of(detector), loss, 4) is loss
    raw = {"a": 1}
    assert [detection_loss.raw_of(one) for one in ((0, raw), raw, (1, 2, 3), (0, 1))] == [raw, raw, (1, 2, 3), 1]


@pytest.mark.parametrize(
    ("ending", "by_pillow"),
    [(e, True) for e in (".tif", ".TIFF", ".pgm", ".ppm", ".pbm", ".pnm", ".gif", ".avif", ".jp2")]
    + [(e, False) for e in (".png", ".jpg", ".bmp")],
)
def test_which_decoder_reads_a_file(ending, by_pillow, tmp_path, monkeypatch) -> None:
    asked, file = [], tmp_path / f"a{ending}"
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(file, format="png")
    monkeypatch.setattr(detection_pixels, "_by_opencv", lambda path: asked.append(path) or pixels[:, :, ::-1].copy())
    found = detection_pixels._decoded(file, 1)
    assert asked == ([] if by_pillow else [file])
    assert np.array_equal(found, pixels[:, :, ::-1])
    monkeypatch.setattr(detection_pixels, "_by_opencv", lambda path: None)
    assert np.array_equal(detection_pixels._decoded(file, 1), pixels[:, :, ::-1])
    file.write_bytes(b"none")
    assert detection_pixels._decoded(file, 1) is None


def test_opencv_reads_quietly_and_leaves_orientation_to_us(tmp_path, capfd) -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(detection_pixels._by_opencv(tmp_path / "a.png"), pixels[:, :, ::-1])
    assert np.array_equal(detection_pixels._decoded(tmp_path / "a.png", 6), np.rot90(pixels, -1)[:, :, ::-1])
    (tmp_path / "empty.png").touch()
    assert detection_pixels._by_opencv(tmp_path / "empty.png") is None
    assert detection_pixels._by_opencv(tmp_path / "none.png") is None
    with detection_pixels._without_messages():
        os.write(2, b"hidden")
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"


def test_a_broken_image_is_told_by_name_from_every_loader(tmp_path) -> None:
    for name in ("0.png", "1.png"):
        Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"broken")
    data = boxes(folder=tmp_path)
    message = rf"{tmp_path}/1\.png: found no image; expected height and width \(64, 64\)"
    with pytest.raises(StageError, match=message):
        list(PlainImages(data.train, 64).batches(2, 0))
    training = TrainingImages(data.train, ("a", "b"), 64, detection_training.NO_AUGMENT)
    with pytest.raises(StageError, match=message) as error:
        list(training.batches([np.array([0, 1])], (0, 0), 0))
    assert error.value.stage == "data"
    assert len(list(training.batches([np.array([0]), np.array([0])], (0, 0), 0))) == 2
    guarded = detection_images._Guarded(PlainImages(data.train, 64))
    assert (len(guarded), guarded[0][0], type(guarded[1])) == (2, 0, Failed)
    assert training.collated([1, Failed("a"), Failed("b")]) == Failed("a")
    assert detection_images._checked(5) == 5


def test_training_images_are_set_up_as_ultralytics_wants_them() -> None:
    images = TrainingImages(boxes().train, ("a", "b"), 64, detection_training.NO_AUGMENT | {"hsv_h": 0.5})
    assert (images.imgsz, images.augment, images.stride, images.batch_size, images.cache) == (64, True, 32, 1, "ram")
    assert images.data == {"names": {0: "a", 1: "b"}, "channels": 3}
    assert images.im_files == ["0", "1"]
    first, second = images.get_labels()
    assert {key: value for key, value in first.items() if key not in ("cls", "bboxes")} == {
        "im_file": "0", "shape": (64, 64), "segments": [], "normalized": True, "bbox_format": "xywh",
    }  # fmt: skip
    assert (first["cls"].tolist(), first["bboxes"].tolist()) == ([[0.0]], [[0.25, 0.25, 0.5, 0.5]])
    assert (second["cls"].tolist(), second["bboxes"].tolist()) == ([[1.0]], [[0.375, 0.25, 0.5, 0.25]])
    fit_ = PlainImages(boxes().train, 64).fit
    assert (fit_.new_shape, fit_.auto, fit_.stride) == ((64, 64), True, 32)
    assert PlainImages(boxes().train, 64, True).fit.auto is False


def test_a_black_image_lies_where_the_task_is() -> None:
    """`meta` stands for any device that isn't the processor."""
    seen, net = [], nn.Sequential(nn.Flatten(), nn.Linear(6, 3, device="meta"))
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].device.type))
    small(torch.device("meta")).check(net)
    assert seen == ["meta"]


def test_a_meter_leaves_no_folder_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    meter = detection.Meter(("a", "b"))
    assert list(tmp_path.iterdir()) == []
    assert meter._validator.save_dir.name.startswith("raybench-val-")
    assert not meter._validator.save_dir.exists()


def test_a_training_state_begins_with_nothing() -> None:
    state = TrainingState(nn.Linear(1, 1), None, None, None)
    assert (state.epoch, state.curve, state.best_epoch, state.best_metric, state.best_loss, state.best) == (
        0, [], 0, -1.0, 0.0, {},
    )  # fmt: skip
