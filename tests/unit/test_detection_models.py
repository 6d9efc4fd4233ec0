"""YOLO without splits, its weights read without running them, its exports, and an ultralytics that stays at home."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)


from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.cost import Cost
from raybench.groups.trace import trace
from raybench.models.offline import offline
from raybench.models.ultralytics import Detector, architecture, yolo
from raybench.models.ultralytics_checkpoint import read_checkpoint
from raybench.models.ultralytics_export import unrolled
from raybench.models.weights import load_weights

with offline():
    from ultralytics.nn.tasks import DetectionModel

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights" / "yolov8n.pt"


def stirred(model):
    """Norms with statistics of their own, so that an interchange of channels shows."""
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=draw))
    return model.eval()


@pytest.mark.parametrize(
    ("config", "scale"), [("yolov8", "n"), ("yolov8", "s"), ("yolov8", "m"), ("yolo11", "n"), ("yolov8", "tiny")]
)
def test_the_rewrite_computes_what_ultralytics_computes(config, scale):
    torch.manual_seed(0)
    theirs = stirred(DetectionModel(architecture(config, scale), ch=3, nc=5, verbose=False))
    ours = Detector(architecture(config, scale), 3, 5).eval()
    ours.load_state_dict(ours.own_names(theirs.state_dict()))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0], theirs(images)[0], rtol=1e-5, atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("config", "scale", "least"),
    [
        ("yolov8", "n", 50),
        pytest.param("yolov8", "s", 50, marks=pytest.mark.slow),
        ("yolov8", "m", 50),
        ("yolo11", "n", 60),
    ],  # s has the layers of n, with more channels
)
def test_groups_cut_and_counted_leave_what_is_protected(config, scale, least):
    torch.manual_seed(0)
    model = yolo(5, 3, 64, config=config, scale=scale).eval()
    image = torch.zeros(1, 3, 64, 64)
    groups = trace(model, image, classes=5)
    assert len(groups) >= least
    cut = {(member.layer, member.side) for group in groups for member in group.members}
    held = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    held = [name for name in held if any(name == p or name.startswith(f"{p}.") for p in model.protected_layers)]
    assert held
    assert not [name for name in held if (name, "out") in cut]
    cost = Cost.measure(model, image, groups)
    kept = {group.name: tuple(range(max(group.least, group.size // 3))) for group in groups}
    predicted = cost.macs(np.array([len(kept[group.name]) for group in groups]))
    surgery.apply(model, groups, kept)
    assert Cost.measure(model, image, trace(model, image)).macs_base == predicted < cost.macs_base / 4
    raw = model.train()(torch.rand(2, 3, 64, 64))
    assert raw["scores"].shape == (2, 5, 84)
    (raw["boxes"].sum() + raw["scores"].sum()).backward()


def test_a_pruned_detector_is_an_ultralytics_checkpoint_without_our_classes(tmp_path):
    torch.manual_seed(0)
    model = stirred(yolo(3, 3, 64, config="yolov8", scale="tiny"))
    groups = trace(model, torch.zeros(1, 3, 64, 64))
    draw = np.random.default_rng(0)
    kept = {g.name: tuple(np.sort(draw.permutation(g.size)[: max(g.least, 2 * g.size // 3)])) for g in groups}
    surgery.apply(model, groups, kept)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(unrolled(model)(images)[0], model(images)[0])
    file = tmp_path / "pruned.pt"
    model.save_for_ultralytics(file, ["a", "b", "c"], 64)
    safe = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # ultralytics adds its own when it loads a file, as in other tests
    named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    torch.serialization.add_safe_globals(safe)
    assert named
    assert all(name.startswith(("torch.nn.", "ultralytics.")) for name in named)
    from ultralytics import YOLO

    loaded = YOLO(file)
    with torch.no_grad():
        assert torch.equal(loaded.model(images)[0], model(images)[0])
    found = loaded.predict(np.full((64, 64, 3), 90, np.uint8), imgsz=64, conf=1e-6, verbose=False, save=False)
    assert loaded.names == {0: "a", 1: "b", 2: "c"}
    assert len(found[0].boxes) > 0


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the developer's data pack is not here")
def test_an_ultralytics_checkpoint_fills_the_model():
    model = yolo(80, 3, 64, config="yolov8", scale="n")
    report = load_weights(model, WEIGHTS)
    assert not report.missing
    assert not report.unexpected
    theirs = DetectionModel(architecture("yolov8", "n"), ch=3, nc=80, verbose=False).eval()
    theirs.load_state_dict(read_checkpoint(WEIGHTS))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images)[0], theirs(images)[0], rtol=1e-5, atol=1e-4)


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"model.0.conv.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not weights of this Detector"):
        load_weights(yolo(3, 3, 64, config="yolov8", scale="tiny"), tmp_path / "other.pt")


def test_weights_of_other_classes_are_refused(tmp_path):
    torch.save(yolo(7, 3, 64, config="yolov8", scale="tiny").state_dict(), tmp_path / "seven.pt")
    with pytest.raises(UserError, match=r"seven\.pt: found weights for 7 classes; the dataset has 3"):
        load_weights(yolo(3, 3, 64, config="yolov8", scale="tiny"), tmp_path / "seven.pt")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_checkpoint_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"model": Call(Path.touch, mark)}, tmp_path / "stranger.pt")
    with pytest.raises(UserError, match=r"refused to load: it would run .*none of it was run"):
        read_checkpoint(tmp_path / "stranger.pt")
    evil = architecture("yolov8", "tiny") | {"activation": f"open({str(mark)!r}, 'w').close() or torch.nn.SiLU()"}
    torch.save({"model": Call(DetectionModel, evil, 3, 3, False)}, tmp_path / "constructor.pt")
    with pytest.raises(UserError, match="found no weights"):
        read_checkpoint(tmp_path / "constructor.pt")
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_told(tmp_path, content):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.pt"):
        read_checkpoint(tmp_path / "odd.pt")


def test_an_image_size_that_the_strides_dont_divide_is_told():
    with pytest.raises(UserError, match="100: YOLO needs a multiple of 32"):
        yolo(3, 3, 100, config="yolov8", scale="tiny")


QUIET = """
import os, socket, sys, torch
from PIL import Image
opened = Image.open
def refuse(*a, **k): raise AssertionError("network")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
save, before = torch.save, dict(os.environ)
import raybench.tasks.detection
from raybench.models.ultralytics import yolo
yolo(3, 3, 64, config="yolov8", scale="tiny")
import ultralytics.utils as u
from ultralytics.utils.events import events
assert torch.save is save and Image.open is opened and dict(os.environ) == before
assert not u.ONLINE and not events.enabled and not u.AUTOINSTALL
print(u.USER_CONFIG_DIR)
"""


def test_ultralytics_stays_at_home(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "MPLCONFIGDIR": str(tmp_path / "mpl"),
    }
    done = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=here, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert list(here.rglob("*")) == []
    assert not Path(done.stdout.strip()).exists()  # its settings went with the process


PRUNE = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
from raybench.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_whole_cell_writes_only_into_its_own_folder(tmp_path):
    home, here, out, temporary = (tmp_path / name for name in ("home", "here", "out", "tmp"))
    for folder in (home, here, temporary, out / "recipes"):
        folder.mkdir(parents=True)
    stage = "{epochs: 1, batch_size: 100, lr: 0.001, augment: [mosaic, hsv]}"
    text = f"base: {stage}\nsparsify: {stage}\nfinetune: {stage}\ncalibration_images: 8\ncalibration_batch: 4\n"
    (out / "recipes" / "once.yaml").write_text(text)
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    command = [
        "prune", "--model", "test-detector", "--dataset", "digits-detection", "--method", "taylor", "--regularizer",
        "bn-scale", "--speedup", "1.5", "--recipe", str(out / "recipes/once.yaml"), "-o", str(out),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PRUNE, *command], cwd=here, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [file for folder in (home, here) for file in folder.rglob("*") if file.is_file()] == []
    assert [file for file in temporary.rglob("*") if "ultralytics" in file.name.lower()] == []
    assert list((out / "artifacts").iterdir())
