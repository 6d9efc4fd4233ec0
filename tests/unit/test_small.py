"""The baseline `small`: which network of the family it takes, and the row that it leaves."""

from __future__ import annotations

import pytest
import torch

import raybench
from raybench.cli.main import main
from raybench.errors import NotSupported
from raybench.models.family import Member, has_family, relatives, widths
from raybench.pipeline.small import nearest
from raybench.plan.plan import why_not
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.resolve import resolve
from tests.unit.result_rows import trial
from tests.unit.sweeps import sweep, written

COSTS = {"cifar-resnet20": 40, "cifar-resnet32": 68, "cifar-resnet44": 96, "cifar-resnet110": 250}


def cost(member: Member) -> tuple[int, int] | None:
    """MACs by depth and the square of the width; parameters are a tenth."""
    if member.params.get("width", 16) == 13:
        return None  # it can't be built
    macs = COSTS.get(member.name, 124) * member.params.get("width", 16) ** 2 // 256
    return macs, macs // 10


@pytest.mark.parametrize(
    ("goal", "which", "found"),
    [
        (62, 0, "cifar-resnet32"),
        (41, 0, "cifar-resnet20"),
        (6, 1, "cifar-resnet32"),
        (31, 0, "cifar-resnet56(width=8)"),  # 40 is more than a quarter away
        (80, 0, "cifar-resnet32"),  # 68 and 96 are near
        (82, 0, "cifar-resnet44"),
    ],
)
def test_the_nearest_network_of_the_family(goal, which, found) -> None:
    member, costs = nearest("cifar-resnet56", {}, (124, 12), goal, which, cost)
    assert str(member) == found
    assert costs == cost(member)


def test_without_a_smaller_name_the_width_goes_and_without_one_it_is_refused() -> None:
    member, _ = nearest("cifar-resnet20", {}, (40, 4), 20, 0, cost)
    assert str(member) == "cifar-resnet20(width=12)"
    assert str(nearest("cifar-resnet20", {}, (40, 4), 27, 0, cost)[0]) == "cifar-resnet20(width=14)", "13 isn't built"
    with pytest.raises(NotSupported, match="small: no smaller network of the family of cifar-vgg16-bn is known"):
        nearest("cifar-vgg16-bn", {}, (40, 4), 20, 0, cost)


def test_families_are_facts_and_names_of_timm() -> None:
    assert {one.name for one in relatives("cifar-resnet56", {"width": 8})} == {
        "cifar-resnet20", "cifar-resnet32", "cifar-resnet44", "cifar-resnet110",
    }  # fmt: skip
    assert all(one.params == {"width": 8} for one in relatives("cifar-resnet56", {"width": 8}))
    assert [one.name for one in relatives("deit-base", {})] == ["deit-small", "deit-tiny"]
    assert "timm:vit_tiny_patch16_224" in [one.name for one in relatives("timm:vit_base_patch16_224", {})]
    assert {"timm:resnet18", "timm:resnet34"} <= {one.name for one in relatives("timm:resnet50.a1_in1k", {})}
    assert [one.params["width"] for one in widths("test-convnet", {})] == list(range(1, 8))
    assert widths("cifar-vgg16-bn", {}) == ()
    assert [has_family(one) for one in ("deit-base", "test-convnet", "timm:any", "vit-nano", "a:b")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_what_it_can_not_stand_for_is_skipped_by_name() -> None:
    own = {"params": {"train": "small"}, "importance": "small"}
    assert why_not(trial(**own)) is None
    repaired = {**own, "params": {**own["params"], "repair": "ridge"}}
    assert why_not(trial(**repaired)) == "repair refits the weights that are kept; a network from scratch has new ones"
    assert why_not(trial(**own, model="vit-nano")) == "small: no family of smaller networks is known for vit-nano"
    for other in ({"target": "latency_ms"}, {"ratio": 0.5}, {"protocol": "pruningbench"}):
        assert why_not(trial(**own, **other)).startswith("small is a dense network of the nearest MACs or parameters")


def test_it_trains_as_long_as_base_and_fine_tuning_together() -> None:
    (one,) = resolve(sweep(models="test-convnet", methods="small", speedups=2, seeds=0))
    (pruned,) = resolve(sweep(models="test-convnet", methods="uniform", speedups=2, seeds=0))
    assert (one.tuning.epochs, one.tuning.lr) == (3, 0.1)
    assert one.base_key == pruned.base_key
    assert one.from_scratch
    assert one.is_small
    assert not pruned.is_small


def test_its_row_names_the_network_and_the_saved_one_is_it(tmp_path) -> None:
    recipe = "{name: t, base: {epochs: 1, lr: 0.01}, finetune: {epochs: 1, lr: 0.01}}"
    text = f"name: s\ndatasets: digits\nmodels: test-convnet\nmethods: small\nspeedups: 2\nrecipe: {recipe}\n"
    place = tmp_path / "st"
    assert main(["run", str(written(tmp_path, text)), "--local", "--storage", str(place)]) == 0
    (row,) = Store(open_storage(str(place))).table().to_pylist()
    assert (row["status"], row["network"]) == ("ok", "test-convnet(width=6)")
    assert row["reason"].startswith("small: test-convnet(width=6) is the family's nearest dense network")
    assert len([one for one in row["curve"] if one["stage"] == "finetune"]) == 2
    net = raybench.load_pruned(place / row["artifact"])
    assert sum(p.numel() for p in net.parameters()) == row["params"]
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
