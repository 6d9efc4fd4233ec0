"""Every registered classification model: group, prune 2x, forward and backward, save, load, equal outputs."""

import copy

import pytest
import torch

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.cost import count_macs
from raybench.groups.trace import trace
from raybench.methods.protocols import Importance
from raybench.models.build import build_model
from raybench.pipeline import artifact
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial

MODELS = sorted(name for name, entry in registry.model.entries().items() if entry.facts["task"] == "classification")
QUICK = {  # one of each family, small enough for every run
    "cifar-resnet20", "cifar-vgg16-bn", "mobilenet-v3-small", "regnety-004", "vit-tiny", "vit-nano", "test-vit",
    "test-convnet",
}  # fmt: skip
ELSEWHERE = [
    "timm:resnet10t", "timm:convnext_pico", "timm:mobilenetv4_conv_small", "timm:poolformer_s12", "timm:repvit_m0_9",
    "timm:mobilevit_xxs", "timm:seresnet18", "timm:fastvit_t8", "timm:hrnet_w18_small", "timm:ghostnet_100",
]  # fmt: skip
REFUSED = {  # what can't be followed, and the layer that is named for it
    "timm:vit_pwee_patch16_reg1_gap_256": r"can't group VisionTransformer: blocks\.0\.\w+ .*",  # parallel blocks
    "timm:levit_128s": r"can't group LevitDistilled: stages\.0\.blocks\.0\.attn\.",
    "timm:mixer_s32_224": r"can't group MlpMixer: blocks\.0\.mlp_tokens\.fc1 ",  # channels and tokens change places
    "timm:efficientformer_l1": r"can't group EfficientFormer: stages\.3\.blocks\.4\.token_mixer\.attention_biases ",
    "timm:edgenext_xx_small": r"can't group EdgeNeXt: stages\.1\.blocks\.1\.xca\.temperature ",
}
FIXED = ("timm:levit_128s", "timm:mixer_s32_224", "timm:efficientformer_l1")  # built for 224 pixels
SMALL = ("cifar-", "test-", "vit-nano")  # names of nets for images of 32 pixels
STEP = TrainRecipe(epochs=1, lr=0.1)


def facts_for(name):
    fixed = registry_attention(name) or name in FIXED
    size = 32 if name.startswith(SMALL) else 256 if "256" in name else 224 if fixed else 64
    return DataFacts("any", "classification", 7, 3, size, (0.5,) * 3, (0.25,) * 3, "")


def registry_attention(name):
    entry = registry.model.entries().get(name)
    return entry is not None and entry.facts["attention"]


def cases():
    for name in [*MODELS, *ELSEWHERE]:
        yield pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name", cases())
def test_a_model_is_pruned_2x_trained_saved_and_loaded(name, tmp_path):
    data = facts_for(name)
    torch.manual_seed(0)
    model = build_model(name, data).eval()
    example = torch.zeros(1, 3, data.image_size, data.image_size)
    try:
        groups = trace(model, example, classes=data.classes)
    except NotSupported as error:
        pytest.fail(f"{name} can't be grouped: {error}")
    criterion: Importance = registry.importance.load("magnitude-l2")()
    cut = select(Scoring(criterion, model), example, groups, [2.0])[2.0]
    assert abs(cut.speedup / 2 - 1) <= 0.005 or cut.reason
    pruned = copy.deepcopy(model)
    surgery.apply(pruned, groups, cut.kept)
    assert sum(p.numel() for p in pruned.parameters()) == cut.params < cut.params_base
    assert count_macs(pruned, example) == cut.macs < cut.macs_base == count_macs(model, example)

    images = torch.rand(2, 3, data.image_size, data.image_size, generator=torch.Generator().manual_seed(1))
    pruned.train()
    pruned(images).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in pruned.parameters() if p.grad is not None)
    pruned.zero_grad()
    pruned.eval()
    recipe = Recipe(name="none", base=STEP, sparsify=STEP, finetune=STEP)
    trial = Trial(dataset="any", model=name, importance=MethodRef(name="magnitude-l2"), speedup=2, recipe=recipe)
    artifact.save(tmp_path, trial, pruned, cut, data)
    again = artifact.load_pruned(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(images), pruned(images))


def test_the_quick_names_exist():
    assert set(MODELS) >= QUICK


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_net_whose_channels_cannot_be_followed_is_refused_by_name(name):
    data = facts_for(name)
    model, example = build_model(name, data).eval(), torch.zeros(1, 3, data.image_size, data.image_size)
    with pytest.raises(NotSupported, match=REFUSED[name]):
        select(
            Scoring(registry.importance.load("magnitude-l2")(), model),
            example,
            trace(model, example, classes=data.classes),
            [2.0],
        )
