"""Exports, quantisation and loading as whole calls: what exporters, loaders and runtimes are given and said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import StageError, UserError
from raybench.pipeline import artifact, export, push, quantize
from raybench.pipeline.compared import TOLERANCE, difference
from raybench.pipeline.export import ABOUT
from raybench.pipeline.measure import ONE
from raybench.selection.records import Cut
from raybench.storage.local import LocalStorage
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.25,), "", class_names=("a", "b"))
SAVED = SimpleNamespace(
    data=FACTS, model="m", model_params={"w": 1}, prune=("mlp",), keep=("k",), only=("o",), kept={"g": (0, 2)},
    weights_sha256="s", tokens=None, blocks=(),
)  # fmt: skip


def noting(made: list, name: str, answer=None):
    def call(*args, **named):
        made.append((name, *args, *([named] if named else [])))
        return answer(*args, **named) if callable(answer) and not isinstance(answer, nn.Module) else answer

    return call


class Detector(nn.Module):
    """Notes how it is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved = []

    def save_for_ultralytics(self, *args) -> None:
        self.saved.append(args)


def test_a_detector_is_saved_with_its_names_and_size(monkeypatch, tmp_path) -> None:
    made, net = [], Detector()
    monkeypatch.setattr(export, "load_pruned", noting(made, "load", net))
    target = tmp_path / "x.pt"
    for names, expected in ((("a", "b"), ("a", "b")), ((), ["0", "1", "2"])):
        data = SimpleNamespace(class_names=names, classes=3, image_size=(64, 96))
        monkeypatch.setattr(export, "read_recipe", noting(made, "read", SimpleNamespace(data=data)))
        made.clear()
        said = export.to_ultralytics(tmp_path, target, True)
        assert said == f"{target}: ultralytics checkpoint; YOLO({str(target)!r}) predicts with it"
        assert net.saved.pop() == (target, expected, (64, 96))
        assert made == [("load", tmp_path, {"trust_code": True}), ("read", tmp_path)]
    made.clear()
    export.to_ultralytics(tmp_path, target)
    assert made[0] == ("load", tmp_path, {"trust_code": False})


@pytest.fixture
def network(monkeypatch) -> SimpleNamespace:
    """A network of which folder and trust are noted."""
    made, net, images = [], nn.Linear(2, 2), torch.ones(3, 2)
    monkeypatch.setattr(export, "_network", noting(made, "network", (net, images)))
    monkeypatch.setattr(export, "_checked", noting(made, "checked", 0.00025))
    return SimpleNamespace(made=made, net=net, images=images)


@pytest.mark.parametrize(
    "about", [{"input": "input", "output": "logits", "model": "m"}, {"input": "input", "model": "m"}]
)
def test_onnx_is_exported_with_names_and_a_free_batch(network, monkeypatch, tmp_path, about) -> None:
    import onnxruntime

    made, facts, target = network.made, {}, tmp_path / "x.onnx"
    program = SimpleNamespace(model=SimpleNamespace(metadata_props=facts), save=noting(made, "save"))
    session = SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="images")], run=noting(made, "run", [np.ones(2), [3.0]])
    )
    monkeypatch.setattr(export, "about_network", lambda folder: about)
    monkeypatch.setattr(torch.onnx, "export", noting(made, "export", program))
    monkeypatch.setattr(onnxruntime, "InferenceSession", noting(made, "session", session))
    said = export.to_onnx(tmp_path, target, True)
    assert said == f"{target}: ONNX, batch size free; outputs differ from torch's by 2.5e-04 in onnxruntime"
    (_, *given, how), (_, outputs, fed), checked = made[1], made[4], made[5]
    assert given == [network.net, (network.images,)]
    (shapes,) = how.pop("dynamic_shapes")
    assert (list(shapes), shapes[0].__name__, shapes[0].min) == ([0], "batch", 1)
    assert how == {
        "dynamo": True, "verbose": False, "input_names": ["input"],
        "output_names": ["logits"] if "output" in about else None,
    }  # fmt: skip
    assert facts == about
    assert (outputs, list(fed), np.array_equal(fed["images"], network.images.numpy())) == (None, ["images"], True)
    assert made[0] == ("network", tmp_path, True)
    assert made[2:4] == [
        ("save", str(target)), ("session", str(target), {"providers": ["CPUExecutionProvider"]}),
    ]  # fmt: skip
    assert checked[:4] == ("checked", "onnxruntime", network.net, network.images)
    assert [found.tolist() for found in checked[4]] == [[1.0, 1.0], [3.0]]
    made.clear()
    export.to_onnx(tmp_path, target)
    assert made[0] == ("network", tmp_path, False)


def test_a_program_is_exported_with_its_facts_and_a_free_batch(network, monkeypatch, tmp_path) -> None:
    made, target = network.made, tmp_path / "x.pt2"
    out = torch.ones(2, requires_grad=True)
    loaded = SimpleNamespace(module=lambda: noting(made, "called", (out, [out + 1])))
    monkeypatch.setattr(export, "about_network", lambda folder: {"input": "input"})
    for name, answer in (("export", "program"), ("save", None), ("load", loaded)):
        monkeypatch.setattr(torch.export, name, noting(made, name, answer))
    said = export.to_program(tmp_path, target, True)
    assert said == f"{target}: torch.export program, batch size free; outputs differ by 2.5e-04"
    (_, *given, how) = made[1]
    (shapes,) = how["dynamic_shapes"]
    assert (given, list(how)) == ([network.net, (network.images,)], ["dynamic_shapes"])
    assert (list(shapes), shapes[0].__name__, shapes[0].min) == ([0], "batch", 1)
    assert made[0] == ("network", tmp_path, True)
    assert made[2:5] == [
        ("save", "program", target, {"extra_files": {ABOUT: '{\n "input": "input"\n}'}}), ("load", target),
        ("called", network.images),
    ]  # fmt: skip
    assert made[5][:4] == ("checked", "torch.export", network.net, network.images)
    assert [(found.tolist(), found.requires_grad) for found in made[5][4]] == [([1.0] * 2, False), ([2.0] * 2, False)]
    made.clear()
    export.to_program(tmp_path, target)
    assert made[0] == ("network", tmp_path, False)


def test_a_detector_is_exported_as_what_only_predicts(monkeypatch, tmp_path) -> None:
    made, slim = [], nn.Linear(1, 1)
    net = SimpleNamespace(for_export=lambda: slim)
    monkeypatch.setattr(export, "read_recipe", lambda folder: SAVED)
    monkeypatch.setattr(export, "load_pruned", noting(made, "load", net))
    found, images = export._network(tmp_path, False)
    assert (found, images.shape, made) == (slim, (3, 1, 8, 8), [("load", tmp_path, {"trust_code": False})])
    net.for_export = None
    assert export._network(tmp_path, True)[0] is net


def test_outputs_that_differ_end_an_export(monkeypatch) -> None:
    net, images, asked = nn.Identity(), torch.ones(1, 2), []
    net.box_output = "boxes"
    for apart in (0.0, TOLERANCE):
        monkeypatch.setattr(export, "difference", lambda *args, apart=apart: asked.append(args) or apart)
        assert export._checked("here", net, images, ["found"]) == apart
    ((expected,), found, boxes) = asked[0]
    assert (torch.equal(expected, images), found, boxes) == (True, ["found"], "boxes")
    monkeypatch.setattr(export, "difference", lambda *args: asked.append(args) or 0.00025)
    with pytest.raises(StageError) as caught:
        export._checked("here", nn.Identity(), images, [])
    assert (str(caught.value), caught.value.stage) == (
        "here gives other outputs: they differ by 2.5e-04 of the largest", "export",
    )  # fmt: skip
    assert asked[-1][2] is None


def test_a_box_is_near_by_its_largest_difference() -> None:
    """Two boxes that score alike and change places, each moved a little in every column: the largest counts."""
    from raybench.models.box_output import BoxOutput

    boxes = torch.tensor([[[100.0, 100, 100, 100, 1, 1], [50, 50, 50, 50, 0.5, 1], [10, 10, 10, 10, 0.5, 1]]])
    found = boxes[:, [0, 2, 1]].clone()
    found[..., :4] += 0.004
    assert difference([boxes], [found], BoxOutput(axis=2, ranked=True)) == pytest.approx(4e-5, rel=1e-2)


def test_numbers_of_classes_do_not_hide_scores() -> None:
    from raybench.models.box_output import BoxOutput

    boxes = torch.tensor([[[100.0, 100, 100, 100, 0.5, 50], [50, 50, 50, 50, 0.25, 7]]])
    found = boxes.clone()
    found[0, 0, 4] += 0.01
    assert difference([boxes], [found], BoxOutput(axis=2, ranked=True)) == pytest.approx(0.02, rel=1e-4)


def test_exports_without_their_libraries_say_what_to_install(monkeypatch, tmp_path) -> None:
    import sys

    for name, call in (
        ("onnxscript", lambda: export.to_onnx(tmp_path, tmp_path)),
        ("onnxruntime.quantization", lambda: quantize.quantize(tmp_path, tmp_path, trial(), {}, None)),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=r"needs .*: pip install 'raybench\[export\]'$"):
                call()


# Quantisation.


def test_a_network_is_quantised_on_the_trials_images(monkeypatch, tmp_path) -> None:
    import onnxruntime.quantization as library

    made, one, target = [], trial(seed=3), tmp_path / "q.onnx"
    images = torch.rand(7, 1, 8, 8)
    metrics = iter([{"top1": 90.0}, {"top1": 89.0}])
    task = SimpleNamespace(
        metric="top1", training_images=300, calibration=noting(made, "calibration", SimpleNamespace(images=images)),
        evaluate=noting(made, "evaluate", lambda *args: next(metrics)),
    )  # fmt: skip
    monkeypatch.setattr(quantize, "open_task", noting(made, "open", task))
    monkeypatch.setattr(
        quantize, "to_onnx", noting(made, "to_onnx", lambda folder, plain, trust: plain.write_bytes(b"123"))
    )
    monkeypatch.setattr(quantize, "_Session", lambda file: SimpleNamespace(file=file, input_name="x"))
    monkeypatch.setattr(
        library, "quantize_static", noting(made, "static", lambda plain, to, reader, **how: to.write_bytes(b"12"))
    )
    monkeypatch.setattr(quantize, "median_ms", noting(made, "median", lambda net, *rest: float(len(net.file.name))))
    found = quantize.quantize(tmp_path, target, one, {"digits": tmp_path}, "storage", True)
    plain, calls = made[2][2], {name: [call[1:] for call in made if call[0] == name] for name, *_ in made}
    assert found == quantize.Quantized(
        "top1", quantize.OnnxFigures("fp32", 90.0, 10.0, 3), quantize.OnnxFigures("int8", 89.0, 6.0, 2), 7
    )
    assert [name for name, *_ in made] == [
        "open", "calibration", "to_onnx", "static", "evaluate", "median", "evaluate", "median",
    ]  # fmt: skip
    assert calls["open"] == [(one, {"digits": tmp_path}, CPU, "storage")]
    assert calls["calibration"] == [(256, 64, 3)]
    assert (calls["to_onnx"], plain.name) == ([(tmp_path, plain, True)], "plain.onnx")
    ((given, to, reader, how),) = calls["static"]
    kinds = library.QuantType.QInt8
    assert (given, to, how) == (plain, target, {
        "quant_format": library.QuantFormat.QDQ, "per_channel": True, "activation_type": kinds, "weight_type": kinds,
    })  # fmt: skip
    assert isinstance(reader, library.CalibrationDataReader)
    batch = reader.get_next()
    assert (list(batch), np.array_equal(batch["x"], images.numpy()), reader.get_next()) == (["x"], True, None)
    assert [(net.file, split) for net, split in calls["evaluate"]] == [(plain, "test"), (target, "test")]
    for (net, first, pace), file in zip(calls["median"], (plain, target), strict=True):
        assert (net.file, torch.equal(first, images[:1]), pace) == (file, True, ONE)
    assert not plain.exists()
    metrics, task.training_images = iter([{"top1": 90.0}, {"top1": 89.0}]), 9
    quantize.quantize(tmp_path, target, one, {}, "storage")
    assert (made[-7][1:], made[-6][3]) == ((9, 64, 3), False)
    with pytest.raises(UserError) as caught:
        quantize.quantize(tmp_path, target, trial(task="detection"), {}, "storage")
    assert str(caught.value) == "--quantize: found a network for detection, expected one for classification"


def test_an_onnx_file_is_a_network(monkeypatch, tmp_path) -> None:
    import onnxruntime

    made = []
    session = SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="x"), SimpleNamespace(name="y")],
        run=noting(made, "run", [[[1.0, 2.0]], [[3.0]]]),
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", noting(made, "session", session))
    net = quantize._Session(tmp_path / "x.onnx")
    found = net(torch.ones(1, 2))
    assert (net.input_name, found.tolist(), isinstance(net, nn.Module)) == ("x", [[1.0, 2.0]], True)
    assert made[0] == ("session", str(tmp_path / "x.onnx"), {"providers": ["CPUExecutionProvider"]})
    (_, outputs, fed) = made[1]
    assert (outputs, list(fed), fed["x"].tolist()) == (None, ["x"], [[1.0, 1.0]])


# Networks as files.


def test_a_network_is_built_and_cut_as_its_file_says(monkeypatch, tmp_path) -> None:
    made, net = [], nn.Linear(1, 1).train()
    nets = iter([net, nn.Linear(1, 1), nn.Linear(1, 1)])
    for name, answer in (
        ("read_recipe", SAVED), ("_check_trusted", None), ("_dense", "built"), ("baked", lambda built: next(nets)),
        ("trace", "groups"), ("_fill", None),
    ):  # fmt: skip
        monkeypatch.setattr(artifact, name, noting(made, name, answer))
    monkeypatch.setattr(artifact.surgery, "apply", noting(made, "apply"))
    found = artifact.load_pruned(tmp_path, "meta")
    image = made[4][2]
    assert made == [
        ("read_recipe", tmp_path), ("_check_trusted", tmp_path / "pruned.json", "m"),
        ("_dense", SAVED, tmp_path / "model.safetensors"), ("baked", "built"),
        ("trace", net, image, {"prune": ("mlp",), "classes": 10, "protect": ("k",), "only": ("o",)}),
        ("apply", net, "groups", {"g": (0, 2)}), ("_fill", net, tmp_path / "model.safetensors", "s"),
    ]  # fmt: skip
    assert (image.shape, image.device, float(image.abs().sum())) == ((1, 1, 8, 8), CPU, 0.0)
    assert (found is net, found.training, found.weight.device.type) == (True, False, "meta")
    made.clear()
    artifact.load_pruned(str(tmp_path), trust_code=True)
    assert [name for name, *_ in made][:2] == ["read_recipe", "_dense"]
    monkeypatch.setattr(artifact, "trace", noting(made, "trace", lambda *args, **named: (_ for _ in ()).throw(
        UserError("no such layer"))))  # fmt: skip
    with pytest.raises(UserError) as caught:
        artifact.load_pruned(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'pruned.json'}: no such layer"


def test_a_description_is_written_for_people(tmp_path) -> None:
    one = trial(only=("o",))
    artifact.save(tmp_path, one, nn.Linear(1, 1), Cut({"g": (0, 2)}, 2.0, 2.0, 10, 5, 20, 9), FACTS)
    text = (tmp_path / "pruned.json").read_text()
    content = json.loads(text)
    assert text == json.dumps(content, indent=1)
    assert text.startswith('{\n "format": 2,\n "trial_id": ')
    assert (content["only"], content["macs"], content["params"]) == (["o"], 5, 9)
    assert content["data"]["mean"] == [0.5]
    nan = DataFacts("d", "classification", 10, 1, 8, (float("nan"),), (0.25,), "")
    with pytest.raises(ValueError, match="JSON"):
        artifact.save(tmp_path, one, nn.Linear(1, 1), Cut({}, 2.0, 2.0, 10, 5, 20, 9), nan)


def test_three_tensors_that_differ_are_named_and_the_others_counted(tmp_path) -> None:
    artifact.cache.save_weights(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2)), tmp_path)
    for net, more in (
        (nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 2)), ""),
        (nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 3)), " and 1 more"),
    ):
        with pytest.raises(UserError) as caught:
            artifact._fill(net, tmp_path / "model.safetensors", None)
        shown = str(caught.value).removeprefix(f"{tmp_path / 'model.safetensors'}: ").partition(". One of")[0]
        assert shown == (
            "0.weight: found float32 (2, 1), expected float32 (3, 1); 0.bias: found float32 (2,), expected float32 "
            f"(3,); 1.weight: found float32 (2, 2), expected float32 ({2 if not more else 3}, 3){more}"
        )


def test_what_lies_under_a_key_is_looked_at_before_it_stands_for_a_network(tmp_path, monkeypatch) -> None:
    made, storage = [], LocalStorage(tmp_path / "store")
    monkeypatch.setattr(artifact, "save", lambda folder, *rest: made.append((folder.name, *rest)) or folder.is_dir())
    monkeypatch.setattr(artifact, "_other_copy", lambda published, folder: made.append((published, folder.name)))
    one = trial()
    key = artifact.publish(storage, one, "net", "cut", "data")
    assert key == f"artifacts/{one.trial_id}"
    assert made == [(one.trial_id, one, "net", "cut", "data"), (None, one.trial_id)]
    monkeypatch.undo()
    assert artifact._other_copy(None, tmp_path) == "it is not complete"
    with_cut = Cut({"g": (0, 2)}, 2.0, 2.0, 10, 5, 20, 9)
    for name, cut in (("a", with_cut), ("b", with_cut), ("c", Cut({"g": (0, 1)}, 2.0, 2.0, 10, 5, 20, 9))):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        artifact.save(tmp_path / name, one, nn.Linear(1, 1), cut, FACTS)
    other = "it holds another network than its cell's"
    assert artifact._other_copy(tmp_path / "a", tmp_path / "b") is None
    assert artifact._other_copy(tmp_path / "a", tmp_path / "c") == other
    (tmp_path / "b/pruned.json").unlink()
    assert artifact._other_copy(tmp_path / "b", tmp_path / "a") == (
        f"{tmp_path / 'b'}: found no pruned.json; expected the folder of a pruned network (artifacts/<trial_id>)"
    )
    (tmp_path / "c/model.safetensors").write_bytes(b"x")
    assert artifact._other_copy(tmp_path / "c", tmp_path / "a") == other


# Uploads.


@pytest.mark.parametrize(
    ("status", "token", "server", "said"),
    [
        (401, None, None, push.NOBODY), (401, "t", None, "--push-to-hub u/n: first; the files are in {file}"),
        (403, None, None, "--push-to-hub u/n: first; the files are in {file}"),
        (404, "t", "no such place.", "--push-to-hub u/n: no such place; the files are in {file}"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_hub_is_one_sentence(monkeypatch, status, token, server, said) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    class Refused(HfHubHTTPError):
        def __init__(self) -> None:
            OSError.__init__(self)
            self.response, self.server_message = SimpleNamespace(status_code=status), server

        def __str__(self) -> str:
            return "\nfirst.\nsecond"

    def refuse(*args, **named) -> None:
        raise Refused

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=refuse))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    file = Path("x.onnx")
    with pytest.raises(UserError) as caught:
        push.push(file, "card", "u/n", private=False)
    assert str(caught.value) == said.format(file=file)
