"""YOLOv8n on the COCO sample from the command line, as a person prunes it: figures in the row, exports that agree."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

import raybench
from raybench.cli.main import main
from raybench.datasets.open import open_dataset
from raybench.models.ultralytics import normalised
from raybench.tasks.detection_images import PlainImages
from raybench.tasks.detection_metrics import detections
from tests.shared import DATA, needs_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), needs_data]
BEST = 20  # boxes of an image that are compared between runtimes
BOXES = """
import sys, numpy as np, torch, raybench
from raybench.tasks.detection_metrics import detections
images = torch.from_numpy(np.load(sys.argv[2]))
with torch.no_grad():
    found = detections(raybench.load_pruned(sys.argv[1])(images)[0])
np.savez(sys.argv[3], *[one.numpy() for one in found])
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """(folder, row) of YOLOv8n at 1.5x after the five epochs of the digits' recipe."""
    folder = tmp_path_factory.mktemp("prune")
    list_file = folder / "told.json"
    with list_file.open("w") as file:
        command = [
            "prune", "--model", "yolov8n", "--weights", str(DATA / "weights" / "yolov8n.pt"), "--dataset", "coco",
            "--data-root", str(DATA / "coco"), "--method", "magnitude-l2", "--speedup", "1.5",
            "--recipe", "detection-digits", "--format", "json", "-o", str(folder),
        ]  # fmt: skip
        code = "import sys; from raybench.cli.main import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", code, *command], stdout=file, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(list_file.read_text())[0]


@pytest.fixture(scope="module")
def images():
    """Four validation images, (4, 3, 640, 640) float32."""
    found = open_dataset("coco", {}, DATA / "coco").splits[1].read().images
    plain = PlainImages(found, 640, square=True)
    return normalised(torch.stack([torch.from_numpy(plain[i][1]) for i in range(4)]))


def test_the_row_holds_base_pruned_and_final_map(pruned):
    _, row = pruned
    print({name: value for name, value in row.items() if "metric" in name or "mAP" in name})
    assert row["metric_name"] == "mAP50-95"
    assert row["metric_base"] == pytest.approx(42.23, abs=0.5)
    assert row["speedup"] == pytest.approx(1.5, rel=0.005)
    assert max(row["metric_pruned"], row["metric_final"]) < row["metric_base"]  # 31 images don't bring it back
    assert 0 <= row["metric_final"] <= row["map50"]


def test_a_fresh_process_gives_the_same_boxes(pruned, images, tmp_path):
    folder, row = pruned
    target = tmp_path / "net"
    assert main(["export", row["trial_id"], "--results", str(folder), "-o", str(target)]) == 0
    np.save(tmp_path / "images.npy", images.numpy())
    files = [str(target), str(tmp_path / "images.npy"), str(tmp_path / "boxes.npz")]
    subprocess.run([sys.executable, "-c", BOXES, *files], check=True)
    with torch.no_grad():
        expected = detections(raybench.load_pruned(folder / row["artifact"])(images)[0])
    found = np.load(tmp_path / "boxes.npz")
    assert sum(map(len, expected)) > 20
    for one, other in zip(expected, found.files, strict=True):
        assert np.array_equal(one.numpy(), found[other])


def test_onnxruntime_and_ultralytics_give_the_same_boxes(pruned, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, row = pruned
    net, pt = tmp_path / "net.onnx", tmp_path / "net.pt"
    for name, file in (("onnx", net), ("ultralytics", pt)):
        assert main(["export", row["trial_id"], "--results", str(folder), "--format", name, "-o", str(file)]) == 0
    with torch.no_grad():
        expected = raybench.load_pruned(folder / row["artifact"])(images)[0]
    session = onnxruntime.InferenceSession(str(net), providers=["CPUExecutionProvider"])
    output = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    from ultralytics import YOLO

    loaded = YOLO(pt).model.eval()
    with torch.no_grad():
        theirs = loaded(images)[0]
    for one, *others in zip(detections(expected), detections(output), detections(theirs), strict=True):
        assert len(one) >= BEST
        for other in others:
            torch.testing.assert_close(other[:BEST], one[:BEST], rtol=1e-3, atol=0.05)
