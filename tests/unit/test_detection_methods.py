"""Every criterion that applies to detection, on YOLOv8n: the cut meets its speed-up, and the network still runs."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench import registry
from raybench.datasets.open import open_dataset
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.models.ultralytics import yolo
from raybench.plan.plan import plan
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.sweep.reader import load_sweep
from raybench.tasks.detection import Detection

CRITERIA = sorted(set(registry.importance.entries()) - {"obd-c"})


@pytest.fixture(scope="module")
def task():
    return Detection(open_dataset("digits-detection", {"train": 16, "val": 4, "test": 4}, None), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_prunes_yolov8n(task, name):
    torch.manual_seed(0)
    model, image = yolo(10, 3, 96, config="yolov8", scale="n").eval(), torch.zeros(1, 3, 96, 96)
    groups = trace(model, image, classes=10)
    criterion = registry.importance.load(name)()
    calibration = None if criterion.needs in ("nothing", "weights") else task.calibration(16, 8, 0)
    for schedule in ("progressive", "iterative") if calibration else ("progressive",):
        cut = select(Scoring(criterion, model, calibration), image, groups, [2.0], schedule=schedule)[2.0]
        assert cut.speedup == pytest.approx(2, rel=0.005)
    surgery.apply(model, groups, cut.kept)
    assert set(task.evaluate(model, "test")) == {"mAP50-95", "mAP50", "loss"}


def test_obd_c_is_skipped_by_name(tmp_path):
    text = "{name: s, models: yolov8n, datasets: digits-detection, methods: [obd-c, lamp], speedups: 2, recipe: quick}"
    (tmp_path / "s.yaml").write_text(text)
    planned = plan(load_sweep(tmp_path / "s.yaml"))
    assert [(skip.trial.method, skip.reason) for skip in planned.skips] == [
        ("obd-c", "criterion obd-c draws labels from class scores; digits-detection is data for detection")
    ]
