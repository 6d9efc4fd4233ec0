"""Pretrained weights from the libraries' hubs: caches, a machine without a network, how they want to see images."""

from urllib.error import URLError

import pytest
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.models.hub import load_pretrained, view_of
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial, Weights
from raybench.tasks.open import open_task

IMAGENET = DataFacts("any", "classification", 1000, 3, 64, (0.5,) * 3, (0.5,) * 3, "")
CPU = torch.device("cpu")
STEP = TrainRecipe(epochs=1, lr=0.1)
PUBLISHED = "test_vit.r160_in1k"  # timm's smallest transformer with weights on the hub


@pytest.mark.parametrize("identity", ["cifar-resnet20", "timm:resnet9000.none", "timm:resnet18.nope", "somewhere:net"])
def test_pretrained_that_there_is_not(identity):
    with pytest.raises(UserError, match="pretrained"):
        load_pretrained(nn.Linear(1, 1), identity)
    assert view_of(identity) is None


def test_a_connection_that_breaks_is_told(monkeypatch):
    def broken(*args, **kwargs):
        raise HfHubHTTPError.__bases__[0]("peer closed the connection")

    monkeypatch.setattr("raybench.models.hub._reach", lambda url: None)
    monkeypatch.setattr("raybench.models.hub._in_hub_cache", lambda *names: None)
    monkeypatch.setattr("timm.create_model", broken)
    with pytest.raises(UserError, match=r"can't be fetched \(HTTPError: peer closed the connection\)"):
        load_pretrained(nn.Linear(1, 1), "timm:resnet18.a1_in1k")


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """Empty caches of both libraries, and no network."""

    def unreachable(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setattr("raybench.models.hub.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize("identity", ["torchvision:resnet18@IMAGENET1K_V1", f"timm:{PUBLISHED}"])
def test_pretrained_offline_says_what_to_do_at_once(caches, identity):
    with pytest.raises(UserError, match=rf"{identity} is not in this .*no network here.*`weights: PATH`.*HF_HOME"):
        load_pretrained(nn.Linear(1, 1), identity)


def test_pretrained_weights_in_the_cache_need_no_network(caches):
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit")
    for kind in ("hub/models--timm--" + PUBLISHED, "torch/checkpoints"):
        (caches / kind).mkdir(parents=True)
    repository = caches / f"hub/models--timm--{PUBLISHED}"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    save_file(theirs.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    model = timm.create_model("test_vit")
    load_pretrained(model, f"timm:{PUBLISHED}")
    assert torch.equal(model.pos_embed, theirs.pos_embed)

    resnet = build_model("resnet18", IMAGENET)
    torch.save(resnet.state_dict(), caches / "torch" / "checkpoints" / "resnet18-f37072fd.pth")
    model = build_model("resnet18", IMAGENET)
    load_pretrained(model, "torchvision:resnet18@IMAGENET1K_V1")
    assert torch.equal(model.conv1.weight, resnet.conv1.weight)


@pytest.mark.parametrize(
    ("identity", "mean", "crop", "interpolation"),
    [  # as timm's own configurations say
        ("timm:vit_small_patch16_224.augreg_in1k", 0.5, 0.9, "bicubic"),
        ("timm:deit_tiny_patch16_224.fb_in1k", 0.485, 0.9, "bicubic"),
        ("timm:regnety_004.pycls_in1k", 0.485, 0.875, "bicubic"),
    ],
)
def test_pretrained_weights_bring_their_own_view_of_images(tmp_path, identity, mean, crop, interpolation):
    seen = view_of(identity)
    assert (seen.mean[0], seen.crop, seen.interpolation) == (mean, crop, interpolation)
    for split in ("train", "val"):
        for name, colour in (("a", 0), ("b", 255)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                frame = Image.new(
                    "RGB", (100, 100), (255 - colour,) * 3
                )  # a rim of 5 pixels that a crop of .9 takes off
                frame.paste((colour,) * 3, (5, 5, 95, 95))
                frame.save(tmp_path / split / name / f"{number}.png")
    params = {"image_size": 32, "val_share": 0.5}
    recipe = Recipe(name="none", base=STEP, sparsify=STEP, finetune=STEP)
    trial = Trial(dataset="imagefolder", dataset_params=params, model="any", importance=MethodRef(name="random"),
                  speedup=2, recipe=recipe, weights=Weights(kind="hub", identity=identity))  # fmt: skip
    task = open_task(trial, {"imagefolder": tmp_path}, CPU)
    assert task.data.mean[0] == mean
    own = open_task(trial.model_copy(update={"weights": Weights()}), {"imagefolder": tmp_path}, CPU)
    assert own.data.mean[0] == 0.485
    pixels = next(iter(task._splits.test.batches([torch.arange(4)], CPU, None)))
    assert bool((pixels[:2] < 0.2).all())  # nothing of the rim is left
    named = trial.model_copy(update={"dataset_params": params | {"statistics": "imagenet"}})
    assert open_task(named, {"imagefolder": tmp_path}, CPU).data.mean[0] == 0.485
