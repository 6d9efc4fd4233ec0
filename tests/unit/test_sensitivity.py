"""`raybench sensitivity`: each group cut alone, beside cuts made by hand."""

import copy
import json

import numpy as np
import pytest
import torch

from raybench.cli.main import main
from raybench.groups import surgery
from raybench.pipeline.context import StageContext
from raybench.pipeline.network import groups_of, model_of
from raybench.pipeline.sensitivity import sensitivity
from raybench.reports.plots.sensitivity import sensitivity_picture
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.tasks.open import open_task

RECIPE = """
base: {epochs: 2, batch_size: 64, optimizer: adamw, lr: 0.004, weight_decay: 0.05}
finetune: {epochs: 0, batch_size: 64, lr: 0.001}
calibration_images: 32
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """(folder with a recipe, storage whose dense network is trained at the first use)."""
    folder = tmp_path_factory.mktemp("sensitivity")
    (folder / "short.yaml").write_text(RECIPE)
    return folder, folder / "store"


def printed(storage, capsys, *options):
    folder, store = storage
    fixed = ("--recipe", str(folder / "short.yaml"), "--storage", str(store), "--device", "cpu")
    assert main(["sensitivity", "test-convnet", *fixed, *options]) == 0
    return capsys.readouterr().out


def test_every_group_is_cut_alone_at_every_share(storage, capsys):
    found = json.loads(
        printed(storage, capsys, "--format", "json", "--ratios", "0.75", "0.25", "-o", str(storage[0] / "a.png"))
    )
    assert (storage[0] / "a.png").read_bytes().startswith(b"\x89PNG")
    names = list(dict.fromkeys(cut["group"] for cut in found["cuts"]))
    assert [(cut["group"], cut["ratio"]) for cut in found["cuts"]] == [(n, r) for n in names for r in (0.25, 0.75)]
    for cut in found["cuts"]:
        assert cut["kept"] == cut["units"] - round(cut["ratio"] * cut["units"])
        assert cut["drop"] == pytest.approx(found["metric_base"] - cut["metric"])
    pairs = list(zip(found["cuts"][::2], found["cuts"][1::2], strict=True))
    assert all(1 < little["speedup"] < much["speedup"] for little, much in pairs)
    assert np.mean([much["drop"] - little["drop"] for little, much in pairs]) > 0


def test_the_figures_are_those_of_the_cut_network(storage, tmp_path):
    folder, store = storage
    (tmp_path / "s.yaml").write_text(
        "{name: s, datasets: digits, models: test-convnet, methods: magnitude-l1, speedups: 2, "
        f"recipe: {folder}/short.yaml}}"
    )
    trial, context = resolve(load_sweep(tmp_path / "s.yaml"))[0], StageContext(LocalStorage(store))
    found = sensitivity(trial, context, (0.5,), "test", lambda line: None)
    task = open_task(trial, {}, torch.device("cpu"), context.storage)
    net = model_of(store / "stages" / trial.base_key, trial, task, torch.device("cpu")).eval()
    assert found.metric_base == task.evaluate(net, "test")["top1"]
    groups = groups_of(net, trial, task)
    for group, cut in zip(groups, found.cuts, strict=True):
        sums = np.zeros(group.size)
        rows = 0
        for member in group.members:
            weight = net.get_submodule(member.layer).weight.detach().abs().double()
            lines = (
                (weight.movedim(1, 0) if member.side == "in" else weight).flatten(1)
                if weight.dim() > 1
                else weight[:, None]
            )
            sums += np.bincount(member.units, lines.sum(1).numpy()[member.positions], group.size)
            rows += 1
        kept = np.sort(np.argsort(sums / rows, kind="stable")[group.size - cut.kept :])
        slim = copy.deepcopy(net)
        surgery.apply(slim, groups, {group.name: kept})
        assert cut.metric == task.evaluate(slim, "test")["top1"]


def test_the_table_has_one_row_a_group_and_says_what_it_is(storage, capsys):
    out = printed(storage, capsys, "--method", "taylor", "--ratios", "0.5")
    assert "50 % go" in out
    assert "each group cut alone, nothing trained" in out
    assert (storage[1] / "sensitivity.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratios", "0.5", "1"], "--ratios: found 1, expected shares between 0 and 1"),
        (["-o", "a.gif"], "found the ending '.gif', expected one of .svg, .pdf, .png"),
        (["--method", "magnitude"], "--method: unknown method 'magnitude'"),
    ],
)
def test_mistakes_are_named(options, message, capsys):
    assert main(["sensitivity", "test-convnet", *options]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_model_is_named(capsys):
    assert main(["sensitivity", "test-convnt"]) == 2
    assert "MODEL: unknown model 'test-convnt'. Did you mean 'test-convnet'" in capsys.readouterr().err


def test_the_picture_names_what_is_most_sensitive():
    drawing = sensitivity_picture({"a": (90.0, 40.0), "b": (95.0, 94.0)}, (0.25, 0.5), 96.0, "top1", "title")
    assert drawing.about.startswith("Most sensitive: a (down to 40.0)")
    assert {shape.text for shape in drawing.shapes if hasattr(shape, "text")} >= {"90.0", "40.0", "95.0", "50 % go"}
