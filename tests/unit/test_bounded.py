"""A saved network whose file names any width, depth or size of images: refused before memory is filled."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import raybench
from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.pipeline import artifact, bounded
from raybench.storage.sealed import json_sha256

DATA = {
    "name": "d", "task": "classification", "classes": 10, "in_channels": 1, "image_size": 8, "mean": [0.5],
    "std": [0.5], "licence": "",
}  # fmt: skip
HUGE = {
    "a width of 10^9": (
        "test-convnet",
        {"width": 10**9},
        {},
        "model_params.width: found 1e+09, expected at most 65,536",
    ),
    "a width in a list": ("timm:resnet18", {"layers": [2, -(10**9)]}, {}, "layers: found -1e+09"),
    "a width of 20,000": ("test-convnet", {"width": 20_000}, {}, "found a network of over 14.4 GB"),
    "10^7 classes": ("test-convnet", {}, {"classes": 10**7}, "found a network of over 0.6 GB"),
    "4,096 channels": ("test-convnet", {"width": 10_000}, {"in_channels": 4096}, "found a network of over 1.5 GB"),
    "60,000 blocks": ("test-vit", {"depth": 60_000}, {}, "found a network of over 20,000 layers"),
    "60,000 embeddings": ("test-vit", {"embed_dim": 60_000}, {}, "found a network of over"),
    "a ratio of 65,000": ("timm:vit_tiny_patch16_224", {"mlp_ratio": 65_000}, {}, "found a network of over"),
    "images of 60,000": ("timm:vit_tiny_patch16_224", {}, {"image_size": 60_000}, "found a network of over"),
    "images of 65,536": ("test-convnet", {}, {"image_size": 65_536}, "found images of 65536x65536 with 1 channel"),
}


def written(folder, model, params, data):
    """A folder that says that it holds such a network, with weights of another one."""
    content = {
        "format": 2, "model": model, "model_params": params, "prune": [], "data": DATA | data, "kept": {},
        "weights_sha256": None,
    }  # fmt: skip
    content["sha256"] = json_sha256(content, "sha256")
    (folder / "pruned.json").write_text(json.dumps(content))
    save_file({"conv1.weight": torch.zeros(8, 1, 3, 3)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("case", HUGE)
@pytest.mark.timeout(30)
def test_a_network_that_its_weights_were_not_cut_from(tmp_path, case, monkeypatch):
    monkeypatch.setattr(bounded, "machine_memory", lambda: 16 << 30)  # of any machine that runs this
    model, params, data, message = HUGE[case]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        raybench.load_pruned(written(tmp_path, model, params, data))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'pruned.json'}: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10, "KiB"


def test_no_memory_is_filled_by_itself(tmp_path):
    """In a process of its own: in the others the memory may have been filled before."""
    load = (
        "import raybench, resource, sys\n"
        "for folder in sys.argv[1:]:\n"
        "    try: raybench.load_pruned(folder)\n"
        "    except raybench.UserError: pass\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    folders = [tmp_path / "small", tmp_path / "huge"]
    for folder, width in zip(folders, (8, 20_000), strict=True):
        folder.mkdir()
        written(folder, "test-convnet", {"width": width}, {})
    ran = subprocess.run([sys.executable, "-c", load, *folders], capture_output=True, text=True, check=True)
    small, huge = map(int, ran.stdout.split())
    assert huge - small < 100 << 10, "KiB"


def test_a_large_network_of_weights_that_may_be_its_own_is_built():
    def build():
        return nn.Linear(10_000, 10_000, bias=False)  # 400 MB

    with pytest.raises(UserError, match=r"over 0\.4 GB"):
        bounded.built_within(build, stored=399_000, twice=False)
    assert bounded.built_within(build, stored=401_000, twice=True).in_features == 10_000


def test_weights_that_are_shared_or_have_no_size_yet_count_once():
    def build():
        one = nn.Linear(6000, 6000, bias=False)  # 144 MB
        tied = nn.Linear(1, 1, bias=False)
        tied.weight = one.weight
        return nn.Sequential(one, tied, nn.LazyLinear(3))

    assert len(bounded.built_within(build, stored=0, twice=False)) == 3
    with pytest.raises(UserError, match=r"over 0\.3 GB"):
        bounded.built_within(lambda: nn.Sequential(build(), build()), stored=0, twice=False)


def test_a_number_that_a_network_may_have_is_no_mistake():
    bounded.check_numbers({"width": 65_536, "rate": 0.5, "name": "x", "norm": None, "sizes": [1, 2], "on": True})
    with pytest.raises(UserError, match=r"model_params\.a\.b: found 65537, expected at most 65,536"):
        bounded.check_numbers({"a": {"b": [1, 65_537]}})


@pytest.mark.parametrize("model", ["test-convnet", "test-vit", "cifar-resnet20", "timm:resnet18"])
def test_the_memory_of_an_image_is_told_without_computing(model, monkeypatch):
    data = artifact.DataFacts(**{**DATA, "image_size": 32})
    net = build_model(model, data)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bounded.check_memory(net, (1, 32, 32))
    monkeypatch.setattr(bounded, "machine_memory", lambda: 1_000_000)  # less than all tensors together
    bounded.check_memory(net, (1, 32, 32))
    monkeypatch.setattr(bounded, "machine_memory", lambda: 1_000)
    with pytest.raises(UserError, match="32x32 with 1 channel: one needs over 0 GB in this network"):
        bounded.check_memory(net, (1, 32, 32))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [("-> /dev/zero", "no regular file"), ("", "header too small"), (b"\xff" * 8, "header too large")],
    ids=["a device", "empty", "a header of 2^64 bytes"],
)
def test_weights_that_are_none(tmp_path, content, message):
    written(tmp_path, "test-convnet", {}, {})
    file = tmp_path / "model.safetensors"
    file.unlink()
    if str(content).startswith("-> "):
        file.symlink_to(content.removeprefix("-> "))
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"model.safetensors: can't be read: .*{message}"):
        raybench.load_pruned(tmp_path)


def test_weights_of_a_file_that_is_far_larger_than_the_network(tmp_path):
    written(tmp_path, "test-convnet", {}, {})
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(1 << 36)  # 64 GiB, none of it on the disk
    with pytest.raises(UserError, match="found 65536 MiB, expected at most 64 for this network"):
        raybench.load_pruned(tmp_path)
