"""Models by name, and other people's weights: what is read, what is refused, what a published network scores."""

import copy
import json
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from raybench import registry
from raybench.cli.main import main
from raybench.datasets.facts import DataFacts
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.cost import count_macs
from raybench.groups.trace import trace
from raybench.methods.layers import Evidence
from raybench.models.build import build_model
from raybench.models.weights import load_weights
from raybench.results.store import Store
from raybench.scoring.scorer import Scorer
from raybench.storage.local import LocalStorage
from raybench.tasks.classification import Classification
from tests.shared import DATA, needs_data

TINY = DataFacts("tiny", "classification", 4, 1, 8, (0.5,), (0.5,), "")
TEN = DataFacts("cifar10", "classification", 10, 3, 32, (0.5,) * 3, (0.5,) * 3, "")
CPU = torch.device("cpu")


def params_of(name, data=TEN):
    return sum(p.numel() for p in build_model(name, data).parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [  # He et al. table 6 (0.27, 0.46, 0.66, 0.85, 1.7 M) plus our 1x1 shortcuts of 16*32 + 32*64 weights
        ("cifar-resnet20", 269722 + 2560),
        ("cifar-resnet32", 464154 + 2560),
        ("cifar-resnet44", 658586 + 2560),
        ("cifar-resnet56", 853018 + 2560),
        ("cifar-resnet110", 1727962 + 2560),
        ("cifar-resnet18", 11173962),  # as kuangliu/pytorch-cifar counts
        ("cifar-resnet50", 23520842),
    ],
)
def test_sizes_of_the_cifar_nets_are_the_published_ones(name, count):
    assert params_of(name) == count


def test_the_depth_of_a_vgg_is_its_number_of_layers():
    for name, depth in (("cifar-vgg16-bn", 16), ("cifar-vgg19-bn", 19)):
        convolutions = [m for m in build_model(name, TEN).modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) + 3 == depth  # the paper counts three linear layers, of which one is left


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-vgg16-bn", "vit-nano", "test-vit", "test-convnet"])
@pytest.mark.parametrize("data", [TINY, TEN], ids=["grey 8x8", "colour 32x32"])
def test_small_nets_take_any_channels_and_size(name, data):
    model = build_model(name, data)
    images = torch.zeros(2, data.in_channels, data.image_size, data.image_size)
    assert model(images).shape == (2, data.classes)
    assert model.training


def test_a_seed_gives_the_same_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model("vit-nano", TINY).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.fixture
def theirs(monkeypatch):
    module = types.ModuleType("theirs")
    module.net = lambda num_classes, in_channels, image_size, width=4: nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    ).requires_grad_(False)
    module.no_module = lambda **arguments: "a net"
    monkeypatch.setitem(sys.modules, "theirs", module)


def test_a_users_function_is_a_model(theirs):
    model = build_model("theirs:net", TINY, {"width": 6})
    assert model[0].out_channels == 6
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cifar-resnet21", {}, "Did you mean 'cifar-resnet"),
        ("cifar-resnet20", {"widht": 8}, "widht"),
        ("timm:vit_smal_patch16_224", {}, "Did you mean 'vit_small_patch16_224'"),
        ("timm:resnet18", {"nonsense": 1}, "nonsense: unknown parameter of model 'timm:resnet18'"),
        ("vit-small", {}, "can't build vit_small_patch16_224"),
        ("resnet18", {}, "expected at least 32"),
        ("nowhere:net", {}, "found no module 'nowhere'"),
        ("theirs:nett", {}, "no function 'nett'. Did you mean 'net'"),
        ("theirs:net", {"depth": 2}, "depth"),
        ("theirs:no_module", {}, "returned str; expected a torch.nn.Module"),
    ],
)
def test_bad_models_are_told(theirs, name, params, message):
    with pytest.raises(UserError, match=message):
        build_model(name, TINY, params)


def test_patches_told_as_a_number_are_understood():
    """xcit's patch size is one number where others have two."""
    facts = DataFacts("any", "classification", 4, 3, 64, (0.5,) * 3, (0.5,) * 3, "")
    assert isinstance(build_model("timm:xcit_nano_12_p16_224", facts), nn.Module)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model("test-convnet", TINY)


def other():
    torch.manual_seed(1)
    return build_model("test-convnet", TINY)


def forms(state):
    """The same state as people save it."""
    return {
        "plain": state,
        "wrapped": {"state_dict": state, "epoch": 3},
        "model": {"model": state, "best": 0.5},
        "data-parallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "numpy score": {"state_dict": state, "best_prec1": np.float64(91.73)},
    }


@pytest.mark.parametrize("form", ["plain", "wrapped", "model", "data-parallel", "compiled", "numpy score"])
def test_state_dicts_in_every_wrapping(net, tmp_path, form):
    torch.save(forms(net.state_dict())[form], tmp_path / "x.pt")
    model = other()
    report = load_weights(model, tmp_path / "x.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), net.state_dict().values(), strict=True))
    assert len(report.loaded) == len(net.state_dict())
    assert (report.missing, report.unexpected) == ((), ())


def test_safetensors(net, tmp_path):
    save_file(net.state_dict(), tmp_path / "x.safetensors")
    model = other()
    load_weights(model, tmp_path / "x.safetensors")
    assert torch.equal(model.conv1.weight, net.conv1.weight)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def bad_files(net, path, trap):
    state = dict(net.state_dict())
    yield "missing", None, "found no file"
    yield (
        "code",
        {"state_dict": state, "trap": Evil(trap)},
        r"refused to load: it would run (builtins|__builtin__)\.exec",
    )
    yield "module", nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"
    yield "list", [1, 2], "found list; expected a state dict"
    yield "numbers", {"epoch": 3}, "found no tensors"
    yield "a key less", {k: v for k, v in state.items() if k != "conv2.weight"}, r"1 missing \(conv2\.weight\)"
    yield "a key more", state | {"conv9.weight": torch.ones(1)}, r"1 unexpected \(conv9\.weight\)"
    yield (
        "other classes",
        state | {"linear.weight": torch.ones(9, 16)},
        r"linear\.weight \(9, 16\) instead of \(4, 16\)",
    )


@pytest.mark.parametrize("number", range(8))
def test_bad_weights_are_told_and_leave_the_model_alone(net, tmp_path, number):
    trap = tmp_path / "trap"
    _, content, message = list(bad_files(net, tmp_path, trap))[number]
    if content is not None:
        torch.save(content, tmp_path / "x.pt")
    model = other()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path / "x.pt")
    assert not trap.exists()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_told(net, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="x" + suffix.replace(".", r"\.")):
        load_weights(net, path)


def test_zero_padded_shortcuts_become_equal_convolutions(tmp_path):
    """He et al.'s option A, computed as akamaster/pytorch_resnet_cifar10 does, against what we load."""
    torch.manual_seed(0)
    source = build_model("cifar-resnet20", TEN).eval()
    state = {f"module.{k}": v for k, v in source.state_dict().items() if "shortcut" not in k}
    torch.save({"state_dict": state}, tmp_path / "a.th")
    model = build_model("cifar-resnet20", TEN).eval()
    load_weights(model, tmp_path / "a.th")
    x = torch.rand(2, 16, 8, 8)
    padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(model.layer2[0].shortcut(x), padded)


@pytest.fixture(scope="module")
def published():
    """(task on the real sample of CIFAR-10, ResNet-20 with its published weights)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sample has one of five training files
        task = Classification(open_dataset("cifar10", {}, DATA / "cifar10"), CPU)
    model = build_model("cifar-resnet20", task.data).eval()
    load_weights(model, DATA / "weights" / "resnet20-12fca82f.th")
    return task, model


@needs_data
def test_the_published_resnet20_gets_455_of_500_right(published):
    task, model = published
    right = task.evaluate(model, "test")["top1"] * 5
    assert abs(right - 455) <= 1
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(41.19e6, rel=0.01)
    assert sum(p.numel() for p in model.parameters()) == 272282


@needs_data
def test_pruned_by_local_magnitude_its_counts_are_the_samples(published):
    """Local magnitude-l2 at ratio 0.3: the sample's README counts 129,227 parameters and 77 of 500 right."""
    task, model = published
    example = torch.zeros(1, 3, 32, 32)
    groups = trace(model, example, classes=10)
    scores = Scorer(registry.importance.load("magnitude-l2")(), model, groups, Evidence(), 0).scores()
    kept = {
        group.name: sorted(np.argsort(-score)[: int(group.size * 0.7)].tolist())
        for group, score in zip(groups, scores, strict=True)
    }
    pruned = copy.deepcopy(model)
    surgery.apply(pruned, groups, kept)
    assert sum(p.numel() for p in pruned.parameters()) == 129227
    assert count_macs(model, example) / count_macs(pruned, example) == pytest.approx(2.10, abs=0.02)
    assert abs(task.evaluate(pruned, "test")["top1"] * 5 - 77) <= 25


@needs_data
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:dataset 'cifar10'")
def test_pruned_1_5x_and_fine_tuned_it_recovers_most_and_the_row_says_so(tmp_path):
    """The whole way of a user: a sweep with the published weights, and the figures in its row."""
    sgd = {"optimizer": "sgd", "lr": 0.02, "weight_decay": 5e-4, "warmup_epochs": 0, "augment": ["crop", "flip"]}
    fields = {
        "name": "real", "datasets": ["cifar10"], "methods": ["magnitude-l2"], "strategies": ["local"],
        "speedups": [1.5],
        "models": [{"name": "cifar-resnet20", "weights": str(DATA / "weights" / "resnet20-12fca82f.th")}],
        "seeds": [0], "recipe": {"extends": "quick", "finetune": sgd | {"epochs": 3, "batch_size": 64}},
        "data_roots": {"cifar10": str(DATA / "cifar10")},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(json.dumps(fields))
    assert main(["run", str(tmp_path / "sweep.yaml"), "--local", "--storage", str(tmp_path / "out")]) == 0
    (row,) = Store(LocalStorage(tmp_path / "out")).table().to_pylist()
    assert abs(row["metric_base"] * 5 - 455) <= 1
    assert abs(row["speedup"] / 1.5 - 1) <= 0.005
    lost = row["metric_base"] - row["metric_pruned"]
    assert lost > 10
    assert row["metric_final"] - row["metric_pruned"] > 0.6 * lost
