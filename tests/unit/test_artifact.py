"""A pruned network taken home: whole it loads bit by bit, damaged it is refused by file and what is wrong in it."""

import json
import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from raybench import load_pruned, registry
from raybench.datasets.open import facts_of
from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.pipeline import artifact
from raybench.pipeline.export import EXPORTS
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.storage.sealed import json_sha256
from raybench.sweep.recipe import Recipe as TrainingRecipe
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.trial import MethodRef, Trial

STEP = TrainRecipe(epochs=1, lr=0.1)
IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the folder of a pruned network, what it gives for IMAGES)."""
    data = facts_of(registry.dataset.entry("digits"))
    torch.manual_seed(0)
    model = build_model("test-convnet", data).eval()
    groups = trace(model, IMAGES[:1], classes=data.classes)
    cut = select(Scoring(registry.importance.load("magnitude-l2")(), model), IMAGES[:1], groups, [2.0])[2.0]
    surgery.apply(model, groups, cut.kept)
    recipe = TrainingRecipe(name="none", base=STEP, sparsify=STEP, finetune=STEP)
    method = MethodRef(name="magnitude-l2")
    trial = Trial(dataset="digits", model="test-convnet", importance=method, speedup=2, recipe=recipe)
    folder = tmp_path_factory.mktemp("artifact")
    artifact.save(folder, trial, model, cut, data)
    with torch.no_grad():
        return folder, model(IMAGES)


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved[0], tmp_path / "pruned")


def rewrite(folder, change):
    """Let `change` alter what pruned.json says, which then is what was saved."""
    content = json.loads((folder / "pruned.json").read_text())
    change(content)
    content["sha256"] = json_sha256(content, "sha256")
    (folder / "pruned.json").write_text(json.dumps(content))


def refused(folder, file):
    """What is said of `file`, by load_pruned and by an export alike."""
    with pytest.raises(UserError) as caught:
        load_pruned(folder)
    with pytest.raises(UserError, match=re.escape(str(caught.value))):
        EXPORTS["safetensors"][1](folder, folder.parent / "exported")
    assert str(caught.value).startswith(f"{folder / file}: ")
    return str(caught.value)


def test_what_was_saved_is_loaded_with_or_without_the_hash_of_its_weights(saved, folder):
    rewrite(folder, lambda description: description.pop("weights_sha256"))
    for path in (saved[0], folder):
        with torch.no_grad():
            assert torch.equal(load_pruned(path)(IMAGES), saved[1])


def test_a_description_without_checksum_is_of_an_older_raybench(saved, folder):
    description = json.loads((folder / "pruned.json").read_text())
    del description["sha256"]
    (folder / "pruned.json").write_text(json.dumps(description))
    assert "found other content than was saved" in refused(folder, "pruned.json")
    (folder / "pruned.json").write_text(json.dumps(description | {"format": 1}))
    with torch.no_grad():
        assert torch.equal(load_pruned(folder)(IMAGES), saved[1])


def test_a_flipped_bit_in_the_description_is_refused(folder):
    content = (folder / "pruned.json").read_bytes()
    loaded = []
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        (folder / "pruned.json").write_bytes(bytes(changed))
        try:
            loaded += [(bit, json.loads(bytes(changed)))] if artifact.read_recipe(folder) else []
        except UserError:
            continue
    assert all(description == json.loads(content) for _, description in loaded), "only the layout has changed"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1, "mod', "can't be read: Unterminated string"),
        (b"\xff\xfe", "can't be read: 'utf-8' codec can't decode"),
        (b"[]", "found an empty list, expected a mapping"),
        (b'{"format": 5}', "found format 5, this raybench reads formats 1 to 4"),
    ],
)
def test_a_description_that_is_none(folder, content, message):
    (folder / "pruned.json").write_bytes(content)
    assert message in refused(folder, "pruned.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda description: description.pop("kept"), "kept: the key is missing"),
        (lambda description: description.pop("data"), "data: the key is missing"),
        (lambda description: description["data"].pop("classes"), "data.classes: the key is missing"),
        (
            lambda description: description["data"].update(classes="ten"),
            "data.classes: found 'ten', expected a whole number",
        ),
        (lambda description: description["kept"].update(conv1=[0, 1, 1]), "kept: conv1: found a unit twice"),
        (lambda description: description["kept"].update(conv1=[0, 999]), "group conv1 has units 0 to"),
        (lambda description: description["kept"].update(conv9=[0]), "unknown group 'conv9'. Did you mean 'conv"),
        (
            lambda description: description.update(model="test-convnt"),
            "unknown model 'test-convnt'. Did you mean 'test-convnet'",
        ),
    ],
)
def test_a_description_that_lacks_something_or_contradicts_itself(folder, change, message):
    rewrite(folder, change)
    assert message in refused(folder, "pruned.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", -1, "image_size: found -1, expected 1 to 65536"),
        ("image_size", [8, 10**30], "image_size"),
        ("classes", 0, "classes: found 0, expected 1 to"),
        ("in_channels", 10**9, "in_channels: found 1000000000"),
        ("built_for", 0, "built_for: found 0"),
        ("kept", 10**30, "kept.conv1[0]: found"),
        ("kept", -1, "kept.conv1[0]: found"),
        ("model_params", {"width": -3}, "test-convnet"),
    ],
)
def test_sizes_that_no_network_has(folder, field, value, message):
    def change(content):
        if field == "kept":
            content["kept"]["conv1"][0] = value
        elif field == "model_params":
            content[field] = value
        else:
            content["data"][field] = value

    rewrite(folder, change)
    assert message in refused(folder, "pruned.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("linear.bias"), "linear.bias: found none, expected float32 (10,)"),
        (lambda state: state.update(more=torch.zeros(2)), "more: found float32 (2,), expected none"),
        (lambda state: state.update({"linear.bias": torch.zeros(9)}), "linear.bias: found float32 (9,), expected fl"),
        (
            lambda state: state.update({"linear.bias": state["linear.bias"].half()}),
            "linear.bias: found float16 (10,), expected float32 (10,)",
        ),
    ],
    ids=["missing", "too many", "shape", "half"],
)
def test_weights_of_another_network(folder, change, message):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    assert message in refused(folder, "model.safetensors")


def test_weights_that_were_damaged(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "found other content (SHA-256 " in refused(folder, "model.safetensors")
    file.write_bytes(whole[: len(whole) // 2])
    assert "can't be read: " in refused(folder, "model.safetensors")
    file.unlink()
    assert "can't be read: " in refused(folder, "model.safetensors")
