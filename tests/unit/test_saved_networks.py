"""Saved networks by hand: what stands in their files, how damage is told, exports, uploads, quantisation's images."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.pipeline import artifact, export, push, quantize
from raybench.selection.records import Cut
from raybench.storage.sealed import json_sha256
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial
from tests.unit.errors import error_of

NET = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
SCORES, OTHER = torch.zeros(2, 5), torch.ones(2, 3)


FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.25,), "", class_names=("a", "b"))
STAGE = TrainRecipe(epochs=1, lr=0.1)


def saved(folder: Path, **changed) -> dict:
    """`pruned.json` of a network in `folder`, with changed fields and a right checksum."""
    folder.mkdir(exist_ok=True)
    recipe = Recipe(name="r", base=STAGE, finetune=STAGE)
    trial = Trial(dataset="digits", model="m", model_params={"w": 1}, importance=MethodRef(name="lamp"), speedup=2.0,
                  recipe=recipe, prune=("mlp",), keep=("k",))  # fmt: skip
    artifact.save(folder, trial, NET, Cut({"g": (0, 2)}, 2.0, 2.0, 10, 5, 20, 9), FACTS)
    content = json.loads((folder / "pruned.json").read_text())
    if changed:
        content |= changed
        content["sha256"] = json_sha256(content, "sha256")
        (folder / "pruned.json").write_text(json.dumps(content))
    return content | {"id": trial.trial_id}


def test_a_saved_network_says_all_that_rebuilds_it(tmp_path) -> None:
    content = saved(tmp_path / "a")
    sha256 = hashlib.sha256((tmp_path / "a/model.safetensors").read_bytes()).hexdigest()
    versions = content.pop("versions")
    assert set(versions) == {"raybench", "torch", "timm", "torch-pruning"}
    assert versions["torch"].startswith(torch.__version__.partition("+")[0])
    data = content.pop("data")
    assert (data["name"], data["classes"], data["class_names"]) == ("d", 10, ["a", "b"])
    assert content.pop("sha256")
    assert len(content.pop("base_key")) == 16
    assert content == {
        "format": 2, "trial_id": content["id"], "model": "m", "model_params": {"w": 1}, "prune": ["mlp"],
        "keep": ["k"], "kept": {"g": [0, 2]}, "weights_sha256": sha256, "macs": 5, "params": 9, "id": content["id"],
    }  # fmt: skip
    read = artifact.read_recipe(tmp_path / "a")
    assert (read.model, read.model_params, read.prune, read.keep, read.only) == ("m", {"w": 1}, ("mlp",), ("k",), ())
    assert (read.data, read.kept, read.weights_sha256) == (FACTS, {"g": (0, 2)}, sha256)
    old = saved(tmp_path / "b", format=1)
    (tmp_path / "b/pruned.json").write_text(json.dumps({k: v for k, v in old.items() if k not in ("sha256", "id")}))
    assert artifact.read_recipe(tmp_path / "b").kept == {"g": (0, 2)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 5}, "found format 5, this raybench reads formats 1 to 4"),
        ({"format": None}, "found format None, this raybench reads formats 1 to 4"),
        ({"kept": {"g": [1, 1]}}, "g: found a unit twice, expected each once; the file is damaged"),
        ({"prune": 3}, "prune: found 3, expected a list; the file is damaged"),
        ({"model": 3, "prune": 3, "keep": 3, "only": 3},
         "model: found 3, expected text; prune: found 3, expected a list; keep: found 3, expected a list; the file is "
         "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_description_is_told_field_by_field(changed, said, tmp_path) -> None:
    saved(tmp_path / "a", **changed)
    found = error_of(artifact.read_recipe, tmp_path / "a")
    assert found.startswith(f"{tmp_path / 'a/pruned.json'}: ")
    assert found.endswith(said)


def test_a_description_that_cannot_be_read_is_told(tmp_path) -> None:
    file = tmp_path / "pruned.json"
    assert error_of(artifact.read_recipe, tmp_path) == (
        f"{tmp_path}: found no pruned.json; expected the folder of a pruned network (artifacts/<trial_id>)"
    )
    for content, said in (
        (b"[1]", "found a list of 1, expected a mapping; the file is damaged"),
        (b"{", "expected JSON, as raybench wrote it"), (b"\xff", "expected JSON, as raybench wrote it"),
    ):  # fmt: skip
        file.write_bytes(content)
        assert error_of(artifact.read_recipe, tmp_path).endswith(said)
    content = saved(tmp_path / "a")
    content.pop("id")
    (tmp_path / "a/pruned.json").write_text(json.dumps(content | {"macs": 6}))
    assert error_of(artifact.read_recipe, tmp_path / "a").endswith(
        "found other content than was saved; the file was edited or is damaged"
    )


def test_tensors_that_differ_are_described() -> None:
    found = {"a": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.int64), "d": torch.zeros(())}
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(1)}
    assert artifact._differences(found, expected) == [
        "b: found int64 (2,), expected float32 (2,)", "c: found none, expected float32 (1,)",
        "d: found float32 (), expected none",
    ]  # fmt: skip
    assert artifact._check_trusted(Path("f"), "test-vit") is None
    assert error_of(artifact._check_trusted, Path("f"), "mine:net").startswith(
        "f: this network is built by 'net' of the module 'mine', which loading would import and run. If you trust it: "
    )


def test_weights_are_filled_in_only_if_they_are_those_that_were_saved(tmp_path) -> None:
    saved(tmp_path / "a")
    file = tmp_path / "a/model.safetensors"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    artifact._fill(other, file, sha256)
    assert torch.equal(other[0].weight, NET[0].weight)
    artifact._fill(other, file, None)
    assert error_of(artifact._fill, other, file, "0" * 64) == (
        f"{file}: found other content (SHA-256 {sha256[:16]}) than was saved ({'0' * 16})"
    )
    wide = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 5))
    assert error_of(artifact._fill, wide, file, sha256) == (
        f"{file}: 0.weight: found float32 (16, 8), expected float32 (9, 8); 0.bias: found float32 (16,), expected "
        "float32 (9,); 2.weight: found float32 (4, 16), expected float32 (5, 9) and 1 more. One of the folder's files "
        "is not the one that was saved, or the code of Sequential has changed since"
    )
    file.write_bytes(b"none")
    assert error_of(artifact._fill, other, file, sha256).endswith("; expected the weights of a pruned network")


def test_an_export_says_how_to_use_it(tmp_path) -> None:
    saved(tmp_path / "a")
    assert export.about_network(tmp_path / "a") == {
        "input": "input", "output": "logits", "input_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.25]",
        "classes": '["a", "b"]', "model": "m",
    }  # fmt: skip
    boxes = {"name": "d", "task": "detection", "classes": 2, "in_channels": 3, "image_size": 64, "mean": [0.0] * 3,
             "std": [1.0] * 3, "licence": ""}  # fmt: skip
    saved(tmp_path / "b", data=boxes)
    assert set(export.about_network(tmp_path / "b")) == {"input", "input_shape", "mean", "std", "model"}
    nested = [SCORES, (OTHER, [SCORES])]
    assert [one is two for one, two in zip(export._flat(nested), (SCORES, OTHER, SCORES), strict=True)] == [True] * 3
    assert {name: ending for name, (ending, _) in export.EXPORTS.items()} == {
        "safetensors": "", "onnx": ".onnx", "torch-export": ".pt2", "ultralytics": ".pt",
    }  # fmt: skip


def test_exporters_are_quiet_and_loud_again() -> None:
    loggers = [logging.getLogger(name) for name in ("some.exporter", *export.EXPORTERS)]
    loggers[0].setLevel(logging.DEBUG)
    before = [one.level for one in loggers]
    with pytest.raises(KeyError), export.errors_only("some.exporter"):
        {}[before.append(loggers[0].level)]
    assert before.pop() == logging.ERROR
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with export._quietly():
            warnings.warn("hidden", stacklevel=1)
            assert {one.level for one in loggers[1:]} == {logging.ERROR}
        warnings.warn("shown", stacklevel=1)
    assert [str(one.message) for one in caught] == ["shown"]
    assert [one.level for one in loggers] == before


def test_files_and_folders_of_an_export(tmp_path, monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr(export, "load_pruned", lambda folder, trust_code: loaded.append((folder, trust_code)) or NET)
    saved(tmp_path / "a")
    said = export.to_safetensors(tmp_path / "a", tmp_path / "b/c")
    assert said == (
        f"{tmp_path / 'b/c'}: pruned.json and model.safetensors; raybench.load_pruned({str(tmp_path / 'b/c')!r}) gives "
        "the network"
    )
    for name in ("pruned.json", "model.safetensors"):
        assert (tmp_path / "b/c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    said = export.to_safetensors(tmp_path / "a", tmp_path / "w.safetensors", True)
    assert said == (
        f"{tmp_path / 'w.safetensors'}: the weights alone, a state dict; without -o FILE.safetensors, a folder that "
        "load_pruned reads"
    )
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "a/model.safetensors").read_bytes()
    assert loaded == [(tmp_path / "a", False), (tmp_path / "a", True)]
    assert error_of(export.to_ultralytics, tmp_path / "a", tmp_path / "x.pt") == (
        "--format ultralytics (.pt): Sequential is not a detector of ultralytics; "
        "expected onnx, safetensors, torch-export"
    )
    net, images = export._network(tmp_path / "a", True)
    assert (net, images.shape) == (NET, (3, 1, 8, 8))
    assert torch.equal(images, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_an_export_is_uploaded_with_its_card(tmp_path, monkeypatch) -> None:
    calls = []

    class Api:
        def create_repo(self, name, **named):
            calls.append(("create", name, named))
            return "https://hub/u/n"

        def upload_folder(self, **named):
            calls.append(("folder", named))

        def upload_file(self, **named):
            calls.append(("file", named))

    import huggingface_hub
    from huggingface_hub.errors import LocalTokenNotFoundError

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (tmp_path / "net.onnx").touch()
    made = ("create", "u/n", {"private": True, "exist_ok": True})
    assert push.push(tmp_path, "card", "u/n", private=True) == "https://hub/u/n"
    assert calls == [
        made,
        ("folder", {"repo_id": "u/n", "folder_path": str(tmp_path), "commit_message": "Pruned by raybench"}),
    ]
    calls.clear()
    push.push(tmp_path / "net.onnx", "card", "u/n", private=True)
    assert calls == [
        made,
        ("file", {"repo_id": "u/n", "path_or_fileobj": str(tmp_path / "net.onnx"), "path_in_repo": "net.onnx"}),
        ("file", {"repo_id": "u/n", "path_or_fileobj": b"card", "path_in_repo": "README.md"}),
    ]

    def failing(error):
        def create(self, name, **named):
            raise error

        return create

    for error, said in (
        (LocalTokenNotFoundError("x"), "--push-to-hub: nobody is logged in: hf auth login, or set HF_TOKEN"),
        (OSError("\nno network\nmore"), f"--push-to-hub u/n: no network; the files are in {tmp_path}"),
    ):
        monkeypatch.setattr(Api, "create_repo", failing(error))
        assert error_of(push.push, tmp_path, "card", "u/n", private=False) == said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert error_of(push.push, tmp_path, "card", "u/n", private=False) == (
        "--push-to-hub needs huggingface_hub: pip install huggingface_hub"
    )
    push.check_repository("a.b-c_d/e.f-g")
    for name in ("a", "a/b/c", "/b", "a/", "a b/c"):
        assert (
            error_of(push.check_repository, name)
            == f"--push-to-hub: found {name!r}, expected USER/NAME or ORGANISATION/NAME"
        )


def test_calibration_batches_are_given_one_by_one() -> None:
    images = torch.arange(10.0).view(5, 2)
    reader = quantize._Images(images, "x", 2)
    found = []
    while (batch := reader.get_next()) is not None:
        found.append(batch)
    assert [list(batch) for batch in found] == [["x"]] * 3
    assert torch.equal(torch.cat([torch.from_numpy(batch["x"]) for batch in found]), images)
    assert [len(batch["x"]) for batch in found] == [2, 2, 1]
