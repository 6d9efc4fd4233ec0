"""The axis of depths: cells that remove whole blocks before channels are ranked."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from raybench import load_pruned
from raybench.cli.main import main
from raybench.errors import NotSupported, UserError
from raybench.groups.blocks import remove
from raybench.groups.cost import count_macs
from raybench.models.cifar_resnet import thin_resnet
from raybench.pipeline.network import layers_left
from raybench.plan.plan import plan, why_not
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import Record, config_id, row_sha256
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.storage.sealed import json_sha256
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.size import cells_of
from raybench.sweep.sweep import Sweep
from raybench.sweep.trial import MethodRef, Trial
from tests.unit.result_rows import row, trial
from tests.unit.sweeps import AXES, only_row, problems_of, rows_of, sweep

TEXT = """
name: s
datasets: digits
models: [cifar-resnet20, test-convnet]
methods: [magnitude-l2]
speedups: [1.2, 3]
targets: {params: 4}
depths: [1.0, 0.5]
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}, calibration_images: 16}
exclude: [{models: test-convnet, speedups: [1.2]}]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(rows of the sweep TEXT, its storage)."""
    return rows_of(tmp_path_factory.mktemp("depth"), TEXT)


def one(rows, depth=0.5, model="cifar-resnet20", **asked):
    return only_row(rows, depth=depth, model=model, **asked)


def test_a_cell_removes_the_asked_share_of_blocks_and_meets_its_target_of_the_whole_network(done) -> None:
    rows, storage = done
    whole = one(rows, depth=1.0, speedup_target=3.0)
    for found, ratio in (
        (one(rows, speedup_target=3.0), lambda r: r["macs_base"] / r["macs"] / 3),
        (one(rows, params_target=4.0), lambda r: r["params_base"] / r["params"] / 4),
    ):
        assert (found["blocks_base"], found["blocks"], found["reason"]) == (7, 4, None)
        assert ratio(found) == pytest.approx(1, rel=0.005)
        for name in ("macs_base", "params_base", "macs_tp_base"):
            assert found[name] == whole[name]
        net = load_pruned(storage / found["artifact"])
        assert count_macs(net, torch.zeros(1, 1, 8, 8)) == found["macs"]
        assert sum(p.numel() for p in net.parameters()) == found["params"]
        names = json.loads(found["blocks_removed"])
        assert len(names) == 3
        assert all(isinstance(net.get_submodule(name), nn.Identity) for name in names)
        widths = {entry["layer"]: entry for entry in found["layers"]}
        assert {(e["out_after"], e["in_after"]) for n, e in widths.items() if n.startswith(tuple(names))} == {(0, 0)}
        assert min(e["out_after"] for n, e in widths.items() if not n.startswith(tuple(names))) > 0
    assert (whole["blocks_base"], whole["blocks"], whole["blocks_removed"]) == (None, None, None)


def test_where_the_blocks_alone_save_more_no_channel_goes_and_the_row_says_so(done) -> None:
    found = one(done[0], speedup_target=1.2)
    assert found["reason"] == f"blocks: the 3 removed blocks alone give {found['speedup']:.3g}x"
    assert found["speedup"] > 1.25
    net, whole = load_pruned(done[1] / found["artifact"]), thin_resnet(10, 1, 8, depth=20)
    remove(whole, json.loads(found["blocks_removed"]))
    assert {n: p.shape for n, p in net.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert found["macs"] == count_macs(whole, torch.zeros(1, 1, 8, 8))


def test_a_network_without_removable_blocks_is_skipped_with_the_reason(done) -> None:
    found = [r for r in done[0] if r["model"] == "test-convnet" and r["depth"] == 0.5]
    assert {r["status"] for r in found} == {"skipped"}
    assert found[0]["reason"].startswith("depth 0.5: test-convnet has no removable block")
    assert {r["status"] for r in done[0] if r["model"] == "test-convnet" and r["depth"] == 1.0} == {"ok"}


def test_boards_tell_depths_apart_and_show_makes_the_cell_again(done, capsys) -> None:
    rows, storage = done
    (board,) = Leaderboard.read(Store(open_storage(str(storage))), Query(model="cifar-resnet20", speedup=3.0)).boards
    assert {(entry.method, entry.n) for entry in board.entries} == {
        ("magnitude-l2 (depth=0.5)", 1), ("magnitude-l2 (depth=1)", 1),
    }  # fmt: skip
    found = one(rows, speedup_target=3.0)
    assert main(["show", found["trial_id"], "--results", str(storage)]) == 0
    shown = capsys.readouterr().out
    assert "3x protected-global depth 0.5 seed 0" in shown
    assert " 16 -> 0 " in shown
    file = storage.parent / "again.yaml"
    file.write_text(sweep_of(found["trial"]))
    assert [again.trial_id for again in resolve(load_sweep(str(file)))] == [found["trial_id"]]


def test_the_plan_lists_the_axis(done, capsys) -> None:
    file = done[1].parent / "s.yaml"
    assert main(["plan", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line[:1] in (["dataset"], ["digits"])] == [
        ["dataset", "model", "depth"], ["digits", "cifar-resnet20", "1"], ["digits", "test-convnet", "1"],
        ["digits", "cifar-resnet20", "0.5"], ["digits", "test-convnet", "0.5"],
    ]  # fmt: skip
    assert main(["plan", str(file), "--format", "json"]) == 0
    assert {cell["depth"] for cell in json.loads(capsys.readouterr().out)["cells"]} == {1.0, 0.5}


def test_a_saved_network_names_its_blocks_and_a_wrong_name_is_told(done, tmp_path) -> None:
    found = one(done[0], speedup_target=3.0)
    folder = done[1] / found["artifact"]
    content = json.loads((folder / "pruned.json").read_text())
    assert (content["format"], content["blocks"]) == (4, json.loads(found["blocks_removed"]))
    plain = json.loads((done[1] / one(done[0], 1.0, speedup_target=3.0)["artifact"] / "pruned.json").read_text())
    assert plain["format"] == 2
    assert "blocks" not in plain
    content["blocks"][0] = "layer9.1"
    content["sha256"] = json_sha256(content, "sha256")
    (tmp_path / "pruned.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"pruned\.json: ThinResNet has no block 'layer9\.1' that could be removed"):
        load_pruned(tmp_path)


def test_a_depth_of_one_is_no_part_of_any_id() -> None:
    plain, half = trial(), trial(depth=0.5)
    assert trial(depth=1.0).trial_id == plain.trial_id
    assert "depth" not in plain.id_fields
    assert "depth" not in plain.model_dump()
    assert half.id_fields["depth"] == "0.5"
    assert half.base_key == plain.base_key
    assert len({t.pass_key for t in (plain, half, trial(depth=0.25))}) == 3
    assert len({config_id(t) for t in (plain, half, trial(depth=0.25))}) == 3
    assert half.sibling("global", 4.0, 0, 0).depth == 0.5
    sparse = [trial(regularizer="group-norm", depth=depth) for depth in (1.0, 0.5)]
    assert sparse[0].sparsify_key == sparse[1].sparsify_key
    assert Trial.model_validate(half.model_dump()).trial_id == half.trial_id


def test_rows_from_before_there_were_depths_are_whole() -> None:
    old = {name: value for name, value in row(trial()).items() if name not in ("depth", "row_sha256")}
    assert row_sha256(old) == row_sha256({**old, "depth": 1.0}) != row_sha256({**old, "depth": 0.5})
    assert Record({**old, "row_sha256": None})["depth"] == 1.0


def test_the_axis_multiplies_the_cells_and_keeps_the_ids_of_whole_networks() -> None:
    plain, both = sweep(), sweep(depths=[1.0, 0.5])
    assert cells_of(both) == 2 * cells_of(plain)
    ids = [{t.trial_id for t in resolve(s)} for s in (plain, both)]
    assert ids[0] < ids[1]
    assert len(ids[1]) == 2 * len(ids[0])
    assert {t.depth for t in resolve(sweep(depths=0.5))} == {0.5}


@pytest.mark.parametrize(
    ("depths", "message", "path"),
    [
        ([0.5, 0.5], "found 0.5 twice, expected each value once", ("depths", 1)),
        ([0.0], "found 0.0, expected a number above 0 and at most 1", ("depths", 0)),
        ([1.5], "found 1.5, expected a number above 0 and at most 1", ("depths", 0)),
        (["half"], "found 'half', expected a number above 0 and at most 1", ("depths", 0)),
    ],
)
def test_a_wrong_depth_is_told_with_its_place(depths, message, path) -> None:
    (found,) = problems_of(Sweep, AXES | {"depths": depths})
    assert found == (message, path)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (trial("resrep").model_copy(update={"importance": MethodRef(name="resrep", trained=True)}),
         "resrep chooses channels while the whole network trains"),
        (trial("tome", model="test-vit", kind="tokens"), "tome removes tokens"),
        (trial(protocol="pruningbench"), "protocol pruningbench removes channels alone"),
        (trial("small", params={"train": "small"}), "small is a dense network in place of a pruned one"),
        (trial(transfer="prune-then-transfer"), "blocks are ranked on images, which the source's weights are without"),
    ],
)  # fmt: skip
def test_what_has_no_blocks_to_remove_is_skipped_when_planned(of, why) -> None:
    found = why_not(of.model_copy(update={"depth": 0.5}))
    assert found == f"a depth removes blocks before channels are ranked; {why}"
    assert "depth" not in (why_not(of) or "")


def test_cells_of_one_model_are_skipped_at_one_depth_and_planned_at_the_other() -> None:
    planned = plan(sweep(models="cifar-resnet20", protocol="pruningbench", methods="magnitude-l2", depths=[1.0, 0.5]))
    assert {skip.trial.depth for skip in planned.skips} == {0.5}
    assert {unit.trials[0].depth for unit in planned.cells} == {1.0}


def test_kept_layers_that_went_with_their_block_are_passed_over() -> None:
    net = thin_resnet(10, 1, 8, depth=20)
    remove(net, ["layer1.1"])
    assert layers_left(net, ["layer1.1.*", "layer2.*.conv1"], ["layer1.1.conv1", "layer1.2"]) == (
        ("layer2.*.conv1",), ("layer1.2",),
    )  # fmt: skip
    assert layers_left(net, [], []) == ((), ())
    with pytest.raises(NotSupported, match=r"only: every layer of layer1\.1\.conv1 went with its block"):
        layers_left(net, [], ["layer1.1.conv1"])
