"""`raybench inspect`: what can be pruned and what stays whole; `--keep` and `--only` reach the trial and the cut."""

from __future__ import annotations

import json

import pytest
import torch

import raybench
from raybench.cli.main import main
from raybench.registry import model as models
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from tests.pruning_nets import IMAGE, Branches, Chain

STAGE = {"epochs": 0, "lr": 0.1}
RECIPE = {"name": "none", "base": STAGE, "sparsify": STAGE, "finetune": STAGE}


def test_the_groups_are_listed_with_their_shares() -> None:
    net = Branches()
    found = raybench.inspect(net, IMAGE[:1])
    assert [(g.name, g.units, g.layers) for g in found.groups] == [
        ("stem", 4, ("stem",)), ("left", 3, ("left", "mix")), ("right", 5, ("right", "mix")),
    ]  # fmt: skip
    for group in found.groups:
        pruned = raybench.inspect(net, IMAGE[:1], only=group.layers)
        assert 0 < group.macs_share < 1
        assert 0 < group.params_share < 1
        assert all(one.units <= group.units for one in pruned.groups if one.name == group.name)
    most = raybench.prune(net, IMAGE[:1], 1000, strategy="global")
    assert found.most["global"] == pytest.approx(most.speedup)
    assert (found.macs, found.params) == (most.macs_base, most.params_base)
    assert found.seconds > 0
    assert net.training


def test_what_stays_whole_is_listed_with_its_reason() -> None:
    found = raybench.inspect(Chain(lambda x: torch.fft.fft(x, dim=1).real), IMAGE[:1], keep=["first"])
    assert found.whole["first"] == "named to keep its width"
    assert "fft" in found.whole["second"]
    assert "output" in found.whole["head"]


def test_the_verb_prints_text_and_json(capsys) -> None:
    assert main(["inspect", "test-convnet", "--keep", "conv1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["conv3"]
    assert found["whole"]["conv1"] == "named to keep its width"
    assert main(["inspect", "test-convnet"]) == 0
    text = capsys.readouterr().out
    for part in ("conv1  channels      8", "stays whole:\n  linear: ", "most speed-up: ", "tracing took "):
        assert part in text
    assert main(["inspect", "test-convnet", "--only", "conv9"]) == 2
    assert "only: TinyConvNet has no module 'conv9'. Did you mean 'conv" in capsys.readouterr().err
    assert "test-convnet" in models.entries()


def sweep(folder, **fields):
    sweep_fields = {"name": "own", "models": ["test-convnet"], "datasets": ["digits"], "methods": ["magnitude-l2"],
            "speedups": [1.3], "recipe": RECIPE}  # fmt: skip
    (folder / "own.yaml").write_text(json.dumps(sweep_fields | fields))
    return resolve(load_sweep(folder / "own.yaml"))


def test_what_is_kept_is_part_of_the_trial_and_left_out_where_nothing_is(tmp_path) -> None:
    ids = [
        sweep(tmp_path, **how)[0].trial_id
        for how in (
            {},
            {"keep": []},
            {"keep": "conv1"},
            {"keep": ["conv1"]},
            {"only": ["conv1"]},
            {"keep": ["conv2", "conv1"]},
        )
    ]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 4
    own = sweep(tmp_path, models=[{"name": "test-convnet", "keep": ["conv1"]}], keep=["conv3"])[0]
    assert own.keep == ("conv1",)


def test_prune_leaves_what_is_kept_and_its_file_loads(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "r.yaml").write_text(json.dumps(RECIPE))
    command = ["prune", "--model", "test-convnet", "--speedup", "1.2", "--recipe", str(tmp_path / "r.yaml")]
    assert main([*command, "--protect", "conv[12]", "-o", str(tmp_path / "out"), "--format", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    net = raybench.load_pruned(row["files"])
    assert (net.conv1.out_channels, net.conv2.out_channels) == (8, 8)
    assert net.conv3.out_channels < 16
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_blocks_that_may_go_whole_are_named(capsys) -> None:
    assert main(["inspect", "cifar-resnet20"]) == 0
    assert "may go whole: 7 blocks: layer1.0, layer1.1, layer1.2 and 4 more" in capsys.readouterr().out
    assert main(["inspect", "cifar-resnet20", "--keep", "layer1.0.conv1", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"][:2] == ["layer1.1", "layer1.2"]


def test_your_own_photos_are_inspected_without_their_folder(capsys) -> None:
    asked = ["inspect", "resnet18", "--dataset", "imagefolder", "--image-size", "32"]
    assert main([*asked, "--classes", "3", "--format", "json"]) == 0
    few = json.loads(capsys.readouterr().out)
    assert main([*asked, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["params"] - few["params"] == 997 * (512 + 1)
    assert err == "classes: 1000, as imagefolder has as many as its folder says; --classes N builds the model for N\n"
    with pytest.raises(SystemExit):
        main([*asked, "--classes", "none"])
    assert "--classes: found 'none', expected a whole number of at least 1" in capsys.readouterr().err
