"""Token methods: exact cost, counts for a target, networks that are refused, cells of a sweep, boards of their own."""

import json
from functools import partial

import pyarrow as pa
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

import raybench
from raybench import registry
from raybench.cli.main import main
from raybench.errors import NotSupported, UserError
from raybench.groups.cost import count_macs
from raybench.models.small import small_vit, tiny_convnet
from raybench.plan.plan import plan_trials, why_not
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.reproduce import sweep_of
from raybench.results.arrow import conform
from raybench.results.rows import wrong_rows
from raybench.results.schema import row_sha256
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.axes import MethodAxis
from raybench.sweep.reader import load_sweep
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.resolve import resolve
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.training.optimize import make_optimizer
from raybench.tokens.attached import reduced, reducer_named
from raybench.tokens.cost import TokenCost
from raybench.tokens.plain import shape_of
from raybench.tokens.shape import Shape
from raybench.tokens.target import find_counts
from tests.unit.report_stores import store
from tests.unit.result_rows import row, trial
from tests.unit.sweeps import problems_of, sweep

METHODS = sorted(registry.token.entries())
IMAGE = torch.zeros(1, 3, 32, 32)
TINY = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 3}
VIT_S = TokenCost(  # ViT-S on 224 pixels, from its sizes
    Shape(196, 1, 384, (64,) * 12), (4 * 384**2,) * 12, (2 * 384,) * 12, (8 * 384**2,) * 12,
    outside=196 * 768 * 384 + 384 * 1000, macs_base=4_598_882_304, params_base=22_050_664,
)  # fmt: skip
NETS = {
    "class token": lambda: VisionTransformer(**TINY),
    "mean": lambda: VisionTransformer(**TINY, class_token=False, global_pool="avg"),
    "registers": lambda: VisionTransformer(**TINY, reg_tokens=3, qk_norm=True, init_values=0.1),
    "distilled": lambda: VisionTransformerDistilled(**TINY),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", NETS)
def test_counted_macs_are_the_predicted_ones(kind, method):
    model, reducer = NETS[kind]().eval(), reducer_named(method, {})
    cost = TokenCost.measure(model, IMAGE)
    found = find_counts(reducer, cost, 1.6)
    net, _ = reduced(model, IMAGE, reducer, found.removed)
    assert sum(found.removed) > 0
    assert count_macs(net, IMAGE) == cost.macs(reducer, found.removed)
    assert abs(cost.macs_base / cost.macs(reducer, found.removed) / 1.6 - 1) <= 0.02


def test_the_cost_of_published_settings():
    """ToMe, table 9: ViT-S with r = 13 has 2.7 GFLOPs of 4.6; DynamicViT: DeiT-S with rho .7 has 2.9."""
    assert VIT_S._blocks_macs(VIT_S.shape.counts((0,) * 12, "mlp")) + VIT_S.outside == VIT_S.macs_base
    assert VIT_S.macs(reducer_named("tome", {}), (13,) * 12) / 1e9 == pytest.approx(2.7, abs=0.05)
    dynamic = reducer_named("dynamicvit", {})
    removed = dynamic.removed(VIT_S.shape, 0.3)
    assert (dynamic.blocks(VIT_S.shape), VIT_S.shape.left(removed)[3::3]) == ((3, 6, 9), (137, 96, 67))
    without_predictors = VIT_S.macs(dynamic, removed) - dynamic.extra_macs(VIT_S.shape, removed)
    assert without_predictors / 1e9 == pytest.approx(2.9, abs=0.05)


@pytest.mark.parametrize(("method", "target"), [("tome", 1.5), ("tome", 2.0), ("dynamicvit", 1.5), ("cp-vit", 2.0)])
def test_targets_are_met_where_there_are_many_tokens(method, target):
    reducer = reducer_named(method, {})
    found = find_counts(reducer, VIT_S, target)
    assert found.reason is None
    assert VIT_S.macs_base / VIT_S.macs(reducer, found.removed) == pytest.approx(target, rel=0.005)


def test_a_target_that_no_count_reaches_has_a_reason():
    tome, small = reducer_named("tome", {}), {"embed_dim": 8, "depth": 2, "num_heads": 1, "class_token": True}
    few = TokenCost.measure(small_vit(3, 3, 16, **small).eval(), IMAGE[..., :16, :16])
    assert find_counts(tome, few, 50.0).reason.startswith("floor: TokenMerging leaves at least so many tokens; at most")
    assert "granularity" in {find_counts(tome, few, 1 + i / 100).reason for i in range(1, 30)}
    with pytest.raises(NotSupported, match="DynamicViT removes no tokens from a network of 1 blocks"):
        find_counts(reducer_named("dynamicvit", {}), TokenCost(Shape(4, 1, 8, (8,)), (1,), (1,), (1,), 0, 9, 9), 1.5)


class Twice(VisionTransformer):
    """Runs its blocks twice."""

    def forward_features(self, x, **kw):
        return self.norm(self.blocks(self.blocks(self._pos_embed(self.patch_embed(x)))))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(tiny_convnet, 3, 3, 32), "from TinyConvNet: it is no VisionTransformer of timm"),
        (partial(VisionTransformer, **TINY, global_pool="map"), "it pools by 'map'"),
        (partial(VisionTransformer, **TINY, global_pool="max", class_token=False), "it pools by 'max'"),
        (partial(VisionTransformer, **TINY, patch_drop_rate=0.5), "it drops patches at random while it trains"),
        (partial(VisionTransformer, **TINY, block_fn=ParallelScalingBlock), "block 0 is a ParallelScalingBlock"),
        (partial(VisionTransformer, **TINY, attn_layer="diff"), "the attention of block 0 is a DiffAttention"),
        (partial(Twice, **TINY), "from Twice: its forward does more than its blocks one by one"),
    ],
)
def test_networks_that_are_no_plain_transformer_are_refused(make, said):
    with pytest.raises(NotSupported, match=said.replace("(", r"\(")):
        shape_of(make().eval(), IMAGE)


def test_counts_that_a_method_cannot_remove_are_refused():
    model, tome = NETS["class token"]().eval(), reducer_named("tome", {})
    for removed in [(1, 1, 1), (40, 0, 0, 0), (-1, 0, 0, 0)]:
        with pytest.raises(NotSupported, match="TokenMerging can't remove"):
            reduced(model, IMAGE, tome, removed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", NETS)
def test_what_the_whole_network_trains_without_decay_is_not_decayed_in_the_reduced_one(kind, method):
    model, reducer = NETS[kind](), reducer_named(method, {})
    adamw = TrainRecipe(epochs=1, lr=0.1, optimizer="adamw", weight_decay=0.1)

    def spared(net):
        names = {id(parameter): name.removeprefix("vit.") for name, parameter in net.named_parameters()}
        groups = make_optimizer(net, adamw, torch.device("cpu")).param_groups
        found = {names[id(one)] for group in groups if not group["weight_decay"] for one in group["params"]}
        return {name for name in found if not name.startswith("stages.")}

    whole = spared(model)
    tokens = {name for name in ("cls_token", "dist_token") if getattr(model, name, None) is not None}
    assert whole >= {"pos_embed", *tokens}
    net, _ = reduced(model, IMAGE, reducer, find_counts(reducer, TokenCost.measure(model, IMAGE), 1.6).removed)
    assert spared(net) == whole


def test_the_mean_of_merged_tokens_is_that_of_the_patches():
    """A network whose blocks do nothing: merging must not change what it pools."""
    model = NETS["mean"]().eval()
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
    images = torch.randn(2, 3, 32, 32)
    net, _ = reduced(model, IMAGE, reducer_named("tome", {}), (20, 10, 5, 3))
    torch.testing.assert_close(net(images), model(images), rtol=1e-4, atol=1e-5)


CELLS = {"models": "test-vit", "methods": ["tome", "lamp"], "strategies": ["local", "global"], "speedups": [1.5]}


def test_cells_of_token_methods(tmp_path):
    trials = resolve(sweep(**CELLS, keep=["head"], round_to=4))
    of_tokens = [one for one in trials if one.kind == "tokens"]
    assert [one.strategy for one in trials if one.kind == "channels"] == ["local", "local", "global", "global"]
    assert len(of_tokens) == 2  # one for each seed, not for each strategy
    assert len({one.select_key for one in of_tokens}) == 1  # counts follow from the sizes
    one = of_tokens[0]
    assert (one.strategy, one.schedule, one.prune, one.keep, one.round_to) == ("tokens", "one-shot", (), (), 1)
    assert (one.tuning.epochs, one.model_copy(update={"importance": one.importance.model_copy(
        update={"params": {"train": "finetune"}})}).tuning.epochs) == (0, 1)  # fmt: skip
    assert "kind" not in trials[-1].id_fields
    assert Trial.model_validate(json.loads(one.model_dump_json())).trial_id == one.trial_id
    (tmp_path / "one.yaml").write_text(sweep_of(one.model_dump_json()))
    assert [cell.trial_id for cell in resolve(load_sweep(tmp_path / "one.yaml"))] == [one.trial_id]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": "test-convnet"}, "tome removes tokens of vision transformers; test-convnet has none"),
        ({"protocol": "pruningbench"}, "protocol pruningbench has no method that removes tokens, such as tome"),
        ({"speedups": [], "targets": {"params": 2}}, "tome removes tokens, which only speed-ups in MACs are asked of"),
        ({"ratio": 0.5}, "tome removes tokens, which only speed-ups in MACs are asked of"),
    ],
)
def test_cells_without_tokens_are_skipped(changes, said):
    fields = {"models": "test-vit", "methods": ["tome"], "speedups": [2], "seeds": [0]} | changes
    if "ratio" in changes or not fields["speedups"]:
        fields.pop("speedups")
        base = sweep(**{key: value for key, value in fields.items() if key not in ("ratio", "targets")}, speedups=[2])
        update = {"ratio": 0.5} if "ratio" in changes else {"target": "params"}
        assert why_not(resolve(base)[0].model_copy(update=update)) == said
        return
    trials = resolve(sweep(**fields))
    assert [skip.reason for skip in plan_trials(trials, sweep().resources).skips] == [said]


def test_a_regularizer_beside_a_token_method_is_a_mistake():
    assert problems_of(MethodAxis, {"name": "tome+group-norm"}) == [
        ("found a regularizer, which shrinks channels; expected tome alone: it removes tokens", ("name",))
    ]
    assert problems_of(MethodAxis, {"name": "tome", "params": {"train": "scratch"}})[0][0] == (
        "found 'scratch', expected 'none' or 'finetune'"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sensitivity", "test-vit", "--method", "tome"], "--method: found tome, which removes tokens"),
        (["prune", "--model", "test-vit", "--speedup", "2", "--method", "tom"], "Did you mean 'tome'?"),
        (["prune", "--model", "test-vit", "--speedup", "2", "--method", "tome", "--regularizer", "group-norm"],
         "found a regularizer, which shrinks channels; expected tome alone: it removes tokens"),
    ],
)  # fmt: skip
def test_commands_that_tokens_have_no_place_in(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_prune_in_memory_says_where_tokens_go():
    with pytest.raises(UserError, match="tome removes tokens; this function removes channels: use `raybench prune`"):
        raybench.prune(nn.Linear(4, 4), torch.zeros(1, 4), 2, "tome")


def rows_of_both():
    """Rows of two criteria under two strategies, and of two token methods."""
    channels = [trial(name, strategy=strategy) for name in ("lamp", "random") for strategy in ("local", "global")]
    tokens = [trial(name, strategy="tokens", kind="tokens", schedule="one-shot") for name in ("tome", "cp-vit")]
    return [row(of, metric_final=90.0 + place) for place, of in enumerate([*channels, *tokens])]


def test_tokens_have_boards_of_their_own_unless_asked(tmp_path, capsys):
    kept = store(tmp_path, rows_of_both())
    boards = Leaderboard.read(kept).boards
    assert [(board.strategy, board.track, len(board.entries)) for board in boards] == [
        ("global", "criteria", 2), ("local", "criteria", 2), ("tokens", "tokens", 2),
    ]  # fmt: skip
    assert {entry.kind for entry in boards[-1].entries} == {"tokens"}
    apart = Leaderboard.read(kept, Query(track="all")).boards  # as the pages of a report ask
    assert [(board.strategy, board.track) for board in apart][-1] == ("tokens", "tokens")
    both = Leaderboard.read(kept, Query(track="all", together=True)).boards
    assert [(board.strategy, len(board.entries)) for board in both] == [("global", 4), ("local", 4)]
    assert [len(b.entries) for b in Leaderboard.read(kept, Query(track="tokens")).boards] == [2]
    main(["leaderboard", str(tmp_path), "--track", "all"])
    assert "criteria, regularizers and token reducers by top1" in capsys.readouterr().out
    main(["leaderboard", str(tmp_path)])
    assert "2x, tokens: token reducers by top1" in capsys.readouterr().out


def test_rows_of_before_read_as_channels(tmp_path):
    """A row without the column, with the checksum of that time, is whole and says channels."""
    old = {name: value for name, value in row(trial("lamp")).items() if name not in ("kind", "row_sha256")}
    assert row_sha256(old) == row_sha256({**old, "kind": "channels"}) != row_sha256({**old, "kind": "tokens"})
    table = conform(pa.table({"seed": [0, 1]}), ["seed", "kind"])
    assert table["kind"].to_pylist() == ["channels", "channels"]
    assert wrong_rows(conform(pa.table({"kind": ["tokens"]}), ["kind", "row_sha256"])) == []
    assert row(trial("lamp"))["kind"] == "channels"


RUN = """
name: tokens
models: test-vit
datasets: digits
methods: [tome, dynamicvit, cp-vit]
speedups: 1.4
recipe:
  base: {epochs: 2, batch_size: 64, optimizer: adamw, lr: 0.004}
  finetune: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}
"""


def test_cells_run_to_networks_that_load(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(RUN)
    run = ["run", str(tmp_path / "s.yaml"), "--local", "--storage", str(tmp_path / "st")]
    assert main(run) == 0
    kept = Store(open_storage(str(tmp_path / "st")))
    rows = [kept.record(one) for one in kept.table(["trial_id"])["trial_id"].to_pylist()]
    assert {one["method"] for one in rows} == {"tome", "dynamicvit", "cp-vit"}
    for one in rows:
        assert (one["kind"], one["kept"], one["params"] > one["params_base"]) == (
            "tokens", "{}", one["method"] == "dynamicvit")  # fmt: skip
        seen = json.loads(one["tokens"])
        assert (len(seen), seen[0][0]) == (2, 17)
        assert seen[-1][1] < 17
        assert one["selected_epoch"] == (0 if one["method"] == "tome" else 1)
        task = open_task(Trial.model_validate_json(one["trial"]), {}, torch.device("cpu"), kept.storage)
        folder = tmp_path / "st" / one["artifact"]
        assert task.evaluate(raybench.load_pruned(folder), "test")["top1"] == one["metric_final"]
    saved = json.loads((folder / "pruned.json").read_text())
    assert (saved["format"], saved["tokens"]["method"], saved["kept"]) == (3, one["method"], {})
    capsys.readouterr()
    assert main(run) == 0
    assert "nothing to run" in (out := capsys.readouterr().out) or "3 done" in out
    assert main(["show", rows[0]["trial_id"], "--results", str(tmp_path / "st")]) == 0
    assert "tokens" in capsys.readouterr().out
