"""The parts of detection by hand: boxes, paddings, crowds, suppression, reading, seeds, settings."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import torch
from PIL import Image

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.datasets.boxes import BoxData, BoxImages
from raybench.datasets.facts import DataFacts
from raybench.errors import StageError, UserError
from raybench.models.ultralytics import yolo
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks import detection_training as training
from raybench.tasks.detection import Detection, DetectionLoss, padded_targets
from raybench.tasks.detection_images import PlainImages, Squares, TrainingImages, globally_seeded, truth_of, workers_for
from raybench.tasks.detection_metrics import Meter, _inside, detections, in_original
from raybench.tasks.detection_pixels import read_bgr

CPU = torch.device("cpu")
SIZES = ((32, 64), (64, 64), (48, 60), (32, 64), (64, 20))  # height, width


def images_of(sizes=SIZES, boxes=None, crowd=None) -> BoxImages:
    """Images of random pixels with two boxes each: the upper left quarter, and the lower half."""
    generator = np.random.default_rng(0)
    pixels = tuple(generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    boxes = boxes or [box for h, w in sizes for box in ((0, 0, w / 2, h / 2), (0, h / 2, w, h))]
    classes = np.arange(len(boxes)) % 2
    flags = np.array(crowd or [False] * len(boxes))
    first = np.arange(len(sizes) + 1) * (len(boxes) // len(sizes))
    files = tuple(f"{i}.png" for i in range(len(sizes)))
    return BoxImages(files, np.array(sizes), first, np.array(boxes, dtype=float), classes, flags, pixels=pixels)


def test_what_lies_in_a_crowd_of_its_class_by_half_is_inside() -> None:
    crowds = np.array([[5.0, 0, 20, 10], [100, 100, 200, 200]])
    kinds = np.array([1, 0])
    cases = [
        ((0, 0, 10, 10), 1, True), ((0, 0, 10, 10), 0, False), ((0, 0, 9, 10), 1, False), ((6, 2, 8, 4), 1, True),
        ((120, 120, 130, 140), 0, True), ((120, 120, 130, 140), 1, False), ((30, 30, 40, 40), 1, False),
        ((-30, -30, -5, -5), 1, False), ((0, 0, 20, 12), 1, True), ((0, 0, 20, 16), 1, False), ((7, 7, 7, 7), 1, False),
    ]  # fmt: skip
    found = torch.tensor([[*box, 0.5, label] for box, label, _ in cases], dtype=torch.float32)
    assert _inside(found, crowds, kinds).tolist() == [expected for *_, expected in cases]
    assert _inside(found, crowds[:0], kinds[:0]).tolist() == [False] * len(cases)


def test_a_meter_counts_hits_misses_and_crowds() -> None:
    """Two objects of class 0 in two images, one found; a wrong box of class 0 in a crowd costs nothing."""
    images = images_of(((64, 64), (64, 64)), [(0, 0, 20, 20), (30, 30, 60, 60), (0, 0, 20, 20), (30, 30, 60, 60)],
                       [False, True, False, True])  # fmt: skip
    images.classes[:] = 0
    none = torch.zeros(0, 6)
    hit, crowd, wrong = ([0.0, 0, 20, 20, 0.9, 0], [32.0, 32, 58, 58, 0.95, 0], [30.0, 0, 60, 20, 0.95, 0])

    def measured(*rows) -> float:
        meter = Meter(("a", "b"))
        for number, found in enumerate(rows):
            meter.add(torch.tensor(found).reshape(-1, 6) if len(found) else none, images, number)
        return meter.result()["mAP50"]

    assert measured([hit], [hit]) == pytest.approx(99.5)
    assert measured([hit], []) == pytest.approx(50, abs=1)
    assert measured([hit, crowd], [hit]) == pytest.approx(99.5)
    assert measured([hit, wrong], [hit, wrong]) < 70
    loose = [0.0, 0, 20, 13, 0.9, 0]  # an overlap of 0.65: right at 0.5, 0.55, 0.6 and 0.65 of ten thresholds
    meter = Meter(("a",))
    for number in range(2):
        meter.add(torch.tensor([loose]), images, number)
    assert meter.result() == pytest.approx({"mAP50": 99.5, "mAP50-95": 39.8}, abs=0.1)


def test_suppression_keeps_the_best_of_one_class_and_the_weak_ones_out() -> None:
    boxes = [(50, 50, 20, 20), (51, 50, 20, 20), (51, 50, 20, 20), (90, 90, 10, 10), (57, 50, 20, 20)]  # xywh, centred
    scores = [(0.9, 0.3), (0.8, 0.1), (0.1, 0.7), (0.0009, 0.0), (0.6, 0.2)]
    predictions = torch.tensor([[*box, *score] for box, score in zip(boxes, scores, strict=True)]).T[None]
    (found,) = detections(predictions)
    assert found[:, 4:].tolist() == [pytest.approx(row) for row in ([0.9, 0], [0.7, 1], [0.6, 0])]
    assert found[0, :4].tolist() == [40, 40, 60, 60]
    several = detections(predictions.repeat(3, 1, 1))
    assert len(several) == 3
    many = torch.rand(1, 6, 900, generator=torch.Generator().manual_seed(0))
    many[:, :2] = torch.arange(900.0) * 10
    assert len(detections(many)[0]) == 300


def test_detections_go_back_to_the_original_image() -> None:
    found = torch.tensor([[0.0, 16, 64, 48, 0.5, 1]])
    back = in_original(found, (64, 64), (50, 100))  # 0.64 of it, 16 rows of padding above and below
    torch.testing.assert_close(back, torch.tensor([[0.0, 0, 100, 50, 0.5, 1]]))
    assert found[0, 3] == 48


def test_truth_is_relative_and_without_crowds() -> None:
    images = images_of(((40, 80), (10, 20)), [(0, 0, 40, 20), (0, 20, 80, 40), (5, 2, 15, 8), (0, 0, 20, 10)],
                       [False, True, False, False])  # fmt: skip
    classes, boxes = truth_of(images, 0)
    assert (classes.tolist(), boxes.tolist()) == ([0.0], [[0.25, 0.25, 0.5, 0.5]])
    classes, boxes = truth_of(images, 1)
    np.testing.assert_allclose(boxes, [[0.5, 0.5, 0.5, 0.6], [0.5, 0.5, 1, 1]])
    assert classes.dtype == boxes.dtype == np.float32


@pytest.mark.parametrize("square", [False, True])
def test_plain_images_are_batched_by_their_padded_shape(square: bool) -> None:
    images = images_of()
    plain = PlainImages(images, 64, square)
    shapes = [(64, 64)] * 5 if square else [(32, 64), (64, 64), (64, 64), (32, 64), (64, 32)]
    batches = list(plain.batches(2, 0))
    assert sorted(i for indices, _ in batches for i in indices) == [0, 1, 2, 3, 4]
    for indices, pixels in batches:
        assert len(indices) == len(pixels) <= 2
        for index, image in zip(indices, pixels, strict=True):
            assert image.shape[1:] == shapes[index]
            assert torch.equal(image, torch.from_numpy(plain[index][1]))
    if not square:  # by height / width: 0 and 3 are 0.5, 2 is 0.8, 1 is 1, 4 is 3.2
        assert [indices for indices, _ in batches] == [[0, 3], [2, 1], [4]]
    index, pixels = plain[0]
    top = 16 if square else 0
    assert (index, pixels.dtype, pixels.flags.c_contiguous) == (0, np.uint8, True)
    assert np.array_equal(pixels[:, top : top + 32], images.pixels[0].transpose(2, 0, 1))
    assert set(np.unique(np.delete(pixels, slice(top, top + 32), 1))) <= {114}
    squares = Squares(PlainImages(images, 64, True))
    assert len(squares) == 5
    assert np.array_equal(squares[1:3].numpy()[0] * 255, images.pixels[1].transpose(2, 0, 1))


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("square", [False, True])
def test_boxes_follow_the_padding(square: bool, number: int) -> None:
    """A white picture with black boxes of whole pixels, looked for in the padded picture."""
    images = images_of()
    for pixels in images.pixels:
        pixels[:] = 255
    h, w = SIZES[number]
    images.pixels[number][: h // 2, : w // 2] = 0
    plain = PlainImages(images, 64, square)
    pixels = plain[number][1]
    classes, boxes = plain.padded(number, pixels.shape[1:])
    assert (classes.tolist(), boxes.shape, boxes.dtype) == ([[0.0], [1.0]], (2, 4), np.float32)
    rows, columns = np.nonzero(pixels[0] < 60)
    x, y, wide, tall = boxes[0] * np.tile(pixels.shape[:0:-1], 2)
    assert [x - wide / 2, x + wide / 2] == pytest.approx([columns.min(), columns.max() + 1], abs=1.01)
    assert [y - tall / 2, y + tall / 2] == pytest.approx([rows.min(), rows.max() + 1], abs=1.01)
    targets = padded_targets(plain, [number], pixels.shape[1:])
    np.testing.assert_array_equal(targets[0].numpy(), np.concatenate([classes, boxes], 1))


def test_targets_are_filled_up_with_minus_one() -> None:
    images = images_of(((64, 64), (64, 64)), [(0, 0, 32, 32), (0, 0, 64, 64), (0, 0, 16, 16), (0, 0, 8, 8)],
                       [False, False, False, True])  # fmt: skip
    targets = padded_targets(PlainImages(images, 64), [0, 1], (64, 64))
    assert targets.tolist() == [
        [[0, 0.25, 0.25, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]], [[0, 0.125, 0.125, 0.25, 0.25], [-1] * 5],
    ]  # fmt: skip
    images.crowd[:] = True
    assert padded_targets(PlainImages(images, 64), [0], (64, 64)).tolist() == [[[-1] * 5]]


def test_files_are_read_as_bgr_and_checked(tmp_path) -> None:
    images = images_of(((6, 4), (6, 4), (6, 4)))
    stored = np.arange(72, dtype=np.uint8).reshape(6, 4, 3)
    for name in ("0.png", "1.tif"):
        Image.fromarray(stored).save(tmp_path / name)
    Image.fromarray(stored[..., 0]).save(tmp_path / "2.png")
    files = BoxImages(("0.png", "1.tif", "2.png"), images.sizes, images.first, images.boxes, images.classes,
                      images.crowd, folder=tmp_path)  # fmt: skip
    for number in (0, 1):
        found = read_bgr(files, number)
        assert np.array_equal(found, stored[:, :, ::-1])
        assert found.flags.c_contiguous
    assert np.array_equal(read_bgr(files, 2), np.repeat(stored[..., :1], 3, 2))
    assert np.array_equal(read_bgr(images, 0), images.pixels[0][:, :, ::-1])
    files.sizes[0] = (4, 6)
    with pytest.raises(StageError, match=r"0\.png: found an image of \(6, 4\); expected height and width \(4, 6\)"):
        read_bgr(files, 0)
    (tmp_path / "1.tif").write_bytes(b"no image")
    with pytest.raises(StageError, match="found no image"):
        read_bgr(files, 1)


def data_of(images: BoxImages) -> BoxData:
    facts = DataFacts("x", "detection", 2, 3, 64, (0.0,) * 3, (1.0,) * 3, "")
    return BoxData(facts, ("a", "b"), images, images, images, "")


def test_training_images_fit_the_long_side_and_hold_the_truth() -> None:
    images = images_of()
    plain = TrainingImages(images, ("a", "b"), 64, training.NO_AUGMENT)
    for number, (h, w) in enumerate(SIZES):
        pixels, before, now = plain.load_image(number)
        assert (before, now) == ((h, w), pixels.shape[:2])
        assert (max(now), now[0] / now[1]) == (64, pytest.approx(h / w, rel=0.04))
    assert np.array_equal(plain.load_image(0)[0], images.pixels[0][:, :, ::-1])
    large = TrainingImages(images, ("a", "b"), 128, training.NO_AUGMENT)
    assert [large.load_image(i)[2] for i in (0, 2)] == [(64, 128), (103, 128)]  # 48 / 60 of 128, rounded up
    item = plain[0]
    assert torch.equal(item["img"][:, 16:48], torch.from_numpy(images.pixels[0].transpose(2, 0, 1).copy()))
    torch.testing.assert_close(item["bboxes"], torch.tensor([[0.25, 0.375, 0.5, 0.25], [0.5, 0.625, 1.0, 0.25]]))
    assert item["cls"].flatten().tolist() == [0, 1]
    (batch,) = plain.batches([np.array([3, 1])], (0, 0), 0)
    assert (batch["img"].shape, batch["batch_idx"].tolist()) == ((2, 3, 64, 64), [0, 0, 1, 1])


def test_augmentation_depends_on_seed_epoch_and_image() -> None:
    images = images_of()
    wild = training.augmentation(TrainRecipe(epochs=99, lr=1, augment=("mosaic", "hsv", "shift", "scale", "flip")), 0)

    def drawn(key, index):
        (batch,) = TrainingImages(images, ("a", "b"), 64, wild).batches([np.array([index])], key, 0)
        return batch["img"]

    first = drawn((1, 2), 0)
    random.seed(5)
    assert torch.equal(first, drawn((1, 2), 0))
    assert not torch.equal(first, drawn((1, 3), 0))
    assert not torch.equal(first, drawn((2, 2), 0))
    before = random.getstate(), np.random.get_state()[1].copy()
    draws = []
    for parts in ((1, "a"), (1, "a"), (1, "b")):
        with globally_seeded(*parts):
            draws.append((random.random(), np.random.random()))
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][1] != draws[2][1]
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    with pytest.raises(KeyError), globally_seeded(3):
        {}[random.random()]
    assert random.getstate() == before[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [((), {}), (("mosaic",), {"mosaic": 1.0}), (("hsv",), {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}),
     (("shift", "flip"), {"translate": 0.1, "fliplr": 0.5}), (("scale",), {"scale": 0.5})],
)  # fmt: skip
def test_augmentation_is_ultralytics_defaults_by_name(names, expected) -> None:
    off = dict.fromkeys(
        ("mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "flipud"), 0.0
    )
    assert training.augmentation(TrainRecipe(epochs=300, lr=1, augment=names), 0) == off | expected
    mixed = training.augmentation(TrainRecipe(epochs=300, lr=1, augment=names, mixup=0.2), 0)
    assert mixed == off | expected | {"mixup": 0.2}


@pytest.mark.parametrize(("epochs", "last"), [(300, 289), (100, 89), (99, 88), (30, 26), (11, 8), (10, 8), (1, -1)])
def test_mosaics_end_ten_epochs_or_a_tenth_before_the_end(epochs: int, last: int) -> None:
    plan = TrainRecipe(epochs=epochs, lr=1, augment=("mosaic",))
    assert [e for e in range(epochs) if training.augmentation(plan, e)["mosaic"]] == list(range(last + 1))


@pytest.mark.parametrize("name", ["label_smoothing", "cutmix", "randaugment", "random_erasing", "distill"])
def test_settings_of_classifiers_are_refused(name: str) -> None:
    value = 3 if name == "randaugment" else 0.5
    with pytest.raises(UserError, match=f"{name}: found {value}; not supported for detection, expected 0"):
        training.check_recipe(TrainRecipe(epochs=1, lr=1, **{name: value}))
    with pytest.raises(UserError, match="augment: found 'crop'; detection has mosaic, hsv, shift, scale, flip"):
        training.check_recipe(TrainRecipe(epochs=1, lr=1, augment=("flip", "crop")))


def test_rates_without_a_warm_up_are_the_recipes() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    plan = TrainRecipe(epochs=4, lr=0.1, momentum=0.7, schedule="constant", weight_decay=0.01)
    optimizer = training.make_optimizer(net, plan, CPU)
    training.set_rates_and_momentum(optimizer, plan, 0.0)
    names = ("lr", "momentum", "weight_decay", "bias")
    assert [[*(group[name] for name in names), len(group["params"])] for group in optimizer.param_groups] == [
        [0.1, 0.7, 0.01, False, 1], [0.1, 0.7, 0.0, False, 1], [0.1, 0.7, 0.0, True, 2],
    ]  # fmt: skip
    adamw = TrainRecipe(epochs=4, lr=0.1, optimizer="adamw", warmup_epochs=2, schedule="constant")
    optimizer = training.make_optimizer(net, adamw, CPU)
    training.set_rates_and_momentum(optimizer, adamw, 1.0)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05] * 3)
    assert training.average_decay(plan, 5) == 0


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return yolo(2, 3, 64, config="yolov8", scale="tiny")


def test_the_loss_is_the_mean_over_images_with_or_without_the_model(detector) -> None:
    plain = PlainImages(images_of(((64, 64), (64, 64))), 64)
    targets = padded_targets(plain, [0, 1], (64, 64))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    raw = detector.eval()(pixels)
    state = torch.get_rng_state()
    whole, free = DetectionLoss(detector)(raw, targets), DetectionLoss(None)
    assert float(free(raw, targets)) == pytest.approx(float(whole), rel=1e-6)
    assert float(free(raw[1], targets)) == pytest.approx(float(whole), rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    truth = {"batch_idx": torch.tensor([0.0, 0, 1, 1]), "cls": targets[:, :, 0].flatten(),
             "bboxes": targets[:, :, 1:].flatten(0, 1)}  # fmt: skip
    from raybench.tasks.detection_loss import v8DetectionLoss

    assert float(whole) == pytest.approx(float(v8DetectionLoss(detector)(raw[1], truth)[0].sum()) / 2)
    empty = torch.full((2, 1, 5), -1.0)
    assert torch.isfinite(DetectionLoss(detector)(raw, empty))


def test_evaluation_weighs_every_image_alike_and_restores_the_mode(detector) -> None:
    task = Detection(data_of(images_of()), CPU)
    detector.train()
    found = task.evaluate(detector, "test")
    assert detector.training
    losses = []
    with torch.no_grad():
        for number in range(5):
            plain = PlainImages(images_of(), 64)
            pixels = torch.from_numpy(plain[number][1])[None].float() / 255
            targets = padded_targets(plain, [number], pixels.shape[2:])
            losses.append(float(DetectionLoss(detector)(detector.eval()(pixels), targets)))
    # the library's loss isn't linear in the batch, but near to it
    assert found["loss"] == pytest.approx(np.mean(losses), rel=0.15)
    assert set(found) == {"mAP50-95", "mAP50", "loss"}
    task.evaluate(detector.eval(), "val")
    assert not detector.training


def test_calibration_is_chosen_by_the_seed(detector) -> None:
    task = Detection(data_of(images_of()), CPU)
    one = task.calibration(3, 2, seed=1)
    from raybench.tasks.training.seeding import generator

    chosen = torch.randperm(5, generator=generator(1, "calibration"))[:3].tolist()
    expected = PlainImages(images_of(), 64, square=True)
    for place, number in enumerate(chosen):
        assert torch.equal(one.images[place : place + 1][0] * 255, torch.from_numpy(expected[number][1]).float())
        np.testing.assert_allclose(one.labels[place], np.concatenate(expected.padded(number, (64, 64)), 1))
    assert (len(one.images), one.batch_size) == (3, 2)
    assert torch.equal(one.generator.get_state(), generator(1, "calibration labels").get_state())


def test_loaders_have_processes_on_gpus_alone(monkeypatch) -> None:
    for cores, expected in ((3, 3), (64, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert (workers_for(CPU), workers_for(torch.device("cuda"))) == (0, expected)
