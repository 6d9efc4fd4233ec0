"""Parts of the pipeline by hand: rows, timings, locks, replaced functions, exports and networks taken home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import raybench
from raybench import load_pruned, registry
from raybench.datasets.open import facts_of
from raybench.errors import StageError, UserError
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.pipeline import artifact, exclusive, export, measure, patches
from raybench.pipeline.base import Base
from raybench.pipeline.cut import Pruned
from raybench.pipeline.exclusive import SHARED, Machine, Turn, own_folder
from raybench.pipeline.measure import Footprint
from raybench.pipeline.row import StageResults, row_of
from raybench.pipeline.select import Selection
from raybench.pipeline.sparsify import Sparsified
from raybench.scoring.scorer import Scoring
from raybench.selection.records import Cut
from raybench.selection.select import select
from raybench.storage.open import open_storage
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial
from raybench.tasks.protocol import Training

CPU = torch.device("cpu")
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
STEP = TrainRecipe(epochs=1, lr=0.1)
HERE = Path(__file__).parent


def trial_of(**fields) -> Trial:
    recipe = Recipe(name="none", base=STEP, sparsify=STEP, finetune=STEP)
    required = {
        "dataset": "digits",
        "model": "test-convnet",
        "importance": MethodRef(name="magnitude-l2"),
        "speedup": 2,
    }
    return Trial(**{**required, "recipe": recipe, **fields})


CUT = Cut({"a": (0, 2)}, 2.0, 1.9, 1000, 526, 300, 170, 1100, 580, "granularity", 7)
FOOTPRINT = Footprint(8000, 5000, 2.5, 1.25, None, 64.0, 32.0, "why not")
EPOCHS = tuple({"epoch": n, "lr": 0.1 * n, "train_loss": 3.0 - n, "loss": 0.2, "top1": 50.0 + n} for n in (1, 2))


def results(**changed) -> StageResults:
    figures = {
        "metric": "top1",
        "dense": Base(Path("base"), "ab" * 32, {"top1": 90.0, "top5": 99.0, "loss": 0.3}, EPOCHS[:1], 11.0),
        "sparse": Sparsified(Path("sparse"), EPOCHS[1:], 5.5, None, 12.0),
        "selection": Selection(CUT, 0.25, None, 13.0),
        "pruned": Pruned(nn.Identity(), {"a": ((8, 3), (2, 3))}),
        "after_cut": {"top1": 60.0, "loss": 1.5},
        "recalibrated": {"top1": 70.0, "loss": 1.2},
        "training": Training(EPOCHS, 2, 1.0, 1, {"precision": "fp32"}),
        "final": {"top1": 88.0, "top5": 98.0, "loss": 0.4},
        "footprint": FOOTPRINT,
        "seconds": {"prune": 21.0, "finetune": 22.0, "measure": 23.0},
        "started_at": "2026-01-02T03:04:05Z",
        "artifact": "artifacts/x",
        "device": CPU,
    }
    return StageResults(**figures | changed)


EXPECTED = {
    "status": "ok", "reason": "granularity", "speedup": 1.9, "macs_base": 1000, "macs": 526, "macs_tp_base": 1100,
    "macs_tp": 580, "params_base": 300, "params": 170, "steps": 7, "metric_name": "top1", "metric_base": 90.0,
    "metric_pruned": 60.0, "metric_recalibrated": 70.0, "metric_final": 88.0, "metric_val": 52.0, "selected_epoch": 2,
    "top5": 98.0, "loss_final": 0.4, "activations_base": 8000, "activations": 5000, "latency_base_ms": 2.5,
    "latency_ms": 1.25, "latency_batch": 1, "latency_b32_base_ms": 64.0, "latency_b32_ms": 32.0,
    "throughput_base": 500.0, "throughput": 1000.0, "batch_reason": "why not", "step_time_s": 0.25, "reg_time_s": 5.5,
    "exclusive": True, "timing_reason": None, "seconds_base": 11.0, "seconds_sparsify": 12.0, "seconds_select": 13.0,
    "seconds_prune": 21.0, "seconds_finetune": 22.0, "seconds_measure": 23.0, "resumed_from": 1, "device": "cpu",
    "precision": "fp32", "base_sha256": "ab" * 32, "artifact": "artifacts/x", "kept": '{"a":[0,2]}',
    "layers": [{"layer": "a", "out_before": 8, "out_after": 2, "in_before": 3, "in_after": 3}],
}  # fmt: skip


def test_a_row_has_every_figure_of_its_stages() -> None:
    row = row_of(trial_of(), results())
    found = {name: row[name] for name in EXPECTED}
    found |= {"kept": found["kept"].replace(" ", ""), "layers": [dict(layer) for layer in found["layers"]]}
    assert found == EXPECTED
    assert [tuple(epoch.values()) for epoch in row["curve"]] == [
        ("base", 1, 0.1, 2.0, 51.0), ("sparsify", 2, 0.2, 1.0, 52.0),
        ("finetune", 1, 0.1, 2.0, 51.0), ("finetune", 2, 0.2, 1.0, 52.0),
    ]  # fmt: skip
    provenance = row["provenance"]
    assert (provenance["started_at"], provenance["threads"]) == ("2026-01-02T03:04:05Z", torch.get_num_threads())
    assert provenance["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert (provenance["cuda"], provenance["device_name"]) == (None, None)


def test_a_row_without_sparsifying_fine_tuning_or_timings() -> None:
    alone = Footprint(8000, 5000, None, None, SHARED, None, None, SHARED)
    how = {"sparse": None, "training": Training((), 0, 0.0), "footprint": alone, "final": {"top1": 60.0}}
    how["recalibrated"] = None
    row = row_of(trial_of(), results(**how, selection=Selection(CUT, None, SHARED, 13.0)))
    empty = (
        "metric_val",
        "metric_recalibrated",
        "top5",
        "loss_final",
        "reg_time_s",
        "step_time_s",
        "seconds_sparsify",
        "throughput",
    )
    assert [row[name] for name in empty] == [None] * 8
    assert (row["exclusive"], row["timing_reason"], row["batch_reason"]) == (False, SHARED, SHARED)
    assert [epoch["stage"] for epoch in row["curve"]] == ["base"]
    slow = Sparsified(Path("sparse"), (), None, "too slow", 1.0)
    assert row_of(trial_of(), results(footprint=alone, sparse=slow))["timing_reason"] == f"{SHARED}; too slow"


def test_memory_that_is_freed_is_counted_out() -> None:
    layers = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 50), nn.Linear(50, 80), nn.Linear(80, 40))
    assert measure.peak_activations(layers, torch.zeros(1, 10)) == 4 * (100 + 50)


def test_latency_is_the_median_after_warming_up(monkeypatch) -> None:
    took = iter([100.0] * measure.ONE.warm_up + [5.0, 1.0, 3.0] * 10)
    monkeypatch.setattr(measure, "_milliseconds", lambda *_: next(took))
    assert measure.median_ms(nn.Identity(), IMAGES, measure.ONE) == 3.0
    assert next(took, None) is None  # 5 to warm up, then 30
    assert (measure.ONE.warm_up, measure.ONE.repeats, measure.BATCH) == (5, 30, 32)


def test_what_the_cut_foretold_is_counted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    task = SimpleNamespace(data=facts_of(registry.dataset.entry("digits")))
    measure.check_cost(net, Cut({}, 2.0, 2.0, 1280, 640, 1300, 650), task, CPU)
    for macs, params in ((641, 650), (640, 651)):
        with pytest.raises(StageError, match=f"has 640 MACs and 650 parameters, .* predicted {macs} and {params}"):
            measure.check_cost(net, Cut({}, 2.0, 2.0, 1280, macs, 1300, params), task, CPU)


STOPPED = """
import sys, pathlib
from raybench.pipeline.exclusive import Machine
with Machine(pathlib.Path(sys.argv[1])).computing() as node, node.exclusive(wait_s=5):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_stopped_process_is_named_and_waited_for_no_longer(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exclusive, "NOTICE_S", 0.05)
    monkeypatch.setattr(exclusive, "STOPPED_S", 0.3)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], **pipes)
    try:
        assert other.stdout.readline() == "in\n"
        said: list[str] = []
        threading.Timer(0.5, lambda: os.kill(other.pid, signal.SIGSTOP)).start()
        with Machine(tmp_path).computing(said.append) as node:
            assert said[0] == f"process {other.pid} takes a timing"
            assert said[-1] == f"process {other.pid} is stopped while it takes a timing: going on without it"
            with node.exclusive(wait_s=0) as alone:
                assert not alone  # the stopped one still holds the locks
        assert float((tmp_path / "overrun").read_text()) <= time.monotonic()
    finally:
        other.kill()
        other.wait()


def test_a_turn_is_lost_when_others_went_on(tmp_path) -> None:
    file = tmp_path / "overrun"
    turn = Turn({}, file)
    assert turn
    file.write_text("not a number")
    assert turn
    file.write_text(str(time.monotonic() - 10))
    assert turn
    file.write_text(str(time.monotonic() + 10))
    assert not turn
    file.unlink()
    assert not Turn(None, file)


def test_a_timing_counts_only_alone(tmp_path) -> None:
    node = Machine(tmp_path)
    with node.computing():
        assert node.timed(lambda: 7) == (7, None)
        late = str(time.monotonic() + 10)
        assert node.timed(lambda: (tmp_path / "overrun").write_text(late)) == (None, SHARED)


def test_the_folder_of_locks_is_made_for_this_user_alone(tmp_path) -> None:
    folder = own_folder(tmp_path / "a/b")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert own_folder(folder).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="found a folder or link of another user"):
        own_folder(tmp_path / "link")


@pytest.mark.parametrize(
    ("holder", "names"),
    [
        (torch, ["relu"]),
        (nn.functional, ["conv2d"]),
        (nn.Module, ["__call__"]),
        (nn.Module, ["_call_impl"]),
        (torch.optim.SGD, ["step"]),
        (torch, ["add", "exp", "log", "mul"]),
    ],
)
def test_replaced_functions_are_named_and_put_back(holder, names) -> None:
    known = patches.remember()  # SGD's own step may have been wrapped by torch since: what is remembered comes back
    before = {name: function for (_, name), (where, function) in known.items() if where is holder and name in names}
    assert set(before) == set(names)
    for name in names:
        setattr(holder, name, lambda *args, **kwargs: None)
    with pytest.raises(StageError, match=r"was replaced while this ran") as caught:
        patches.check("select")
    assert all(vars(holder)[name] is function for name, function in before.items())
    assert caught.value.stage == "select"
    listed = str(caught.value).partition(" was replaced")[0].split(" and ")
    assert len(listed[0].split(", ")) == min(len(names), 3)
    assert listed[1:] == (["1 more"] if len(names) == 4 else [])
    assert all(name.rpartition(".")[2] in names for name in listed[0].split(", "))
    patches.check("select")


def saved(folder: Path, **fields) -> tuple[Path, nn.Module]:
    """A pruned network in `folder`, and itself."""
    trial, data = trial_of(**fields), facts_of(registry.dataset.entry("digits"))
    torch.manual_seed(0)
    model = build_model(trial.model, data, trial.model_params).eval()
    groups = trace(model, IMAGES[:1], prune=trial.prune, classes=10, protect=trial.keep, only=trial.only)
    cut = select(Scoring(registry.importance.load("magnitude-l2")(), model), IMAGES[:1], groups, [1.2])[1.2]
    surgery.apply(model, groups, cut.kept)
    folder.mkdir(exist_ok=True)
    artifact.save(folder, trial, model, cut, data)
    return folder, model


@pytest.mark.parametrize(
    "fields",
    [
        {"model_params": {"width": 12}},
        {"only": ("conv3",)},
        {"keep": ("conv1",)},
        {"model": "test-vit"},
        {"model": "test-vit", "prune": ("mlp",)},
    ],
)
def test_a_network_comes_home_with_what_was_chosen_for_it(fields, tmp_path) -> None:
    folder, model = saved(tmp_path / "net", **fields)
    with torch.no_grad():
        assert torch.equal(load_pruned(folder)(IMAGES), model(IMAGES))
    assert not load_pruned(folder).training


def test_another_network_under_its_key_is_set_aside(tmp_path) -> None:
    storage, data = open_storage(tmp_path / "store"), facts_of(registry.dataset.entry("digits"))
    _, model = saved(tmp_path / "net")
    cut = Cut(artifact.read_recipe(tmp_path / "net").kept, 1.2, 1.2, 1, 1, 1, 1)
    key = artifact.publish(storage, trial_of(), model, cut, data)
    assert key == f"artifacts/{trial_of().trial_id}"
    assert artifact.publish(storage, trial_of(), model, cut, data) == key
    assert not storage.list("damaged/")
    with torch.no_grad():
        model.linear.bias += 1
    with pytest.warns(UserWarning, match="it holds another network than its cell's"):
        artifact.publish(storage, trial_of(), model, cut, data)
    with torch.no_grad():
        assert torch.equal(load_pruned(storage.fetch(key))(IMAGES), model(IMAGES))


def test_exports_take_any_number_of_images(tmp_path) -> None:
    import onnxruntime

    folder, model = saved(tmp_path / "net")
    assert "batch size free" in export.to_onnx(folder, tmp_path / "net.onnx")
    assert "batch size free" in export.to_program(folder, tmp_path / "net.pt2")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    program = torch.export.load(tmp_path / "net.pt2").module()
    for images in (IMAGES[:1], IMAGES, torch.cat([IMAGES] * 3)):
        with torch.no_grad():
            expected = model(images).numpy()
            np.testing.assert_allclose(program(images).numpy(), expected, rtol=1e-4, atol=1e-5)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_outputs_of_an_export_are_compared() -> None:
    net, images = nn.Linear(2, 2), torch.ones(1, 2)
    right = net(images).detach()
    assert export._checked("here", net, images, [right]) == 0
    assert export._checked("here", net, images, [right + 5e-5 * right.abs().max()]) == pytest.approx(5e-5, rel=0.02)
    for wrong in (right + 2e-4 * right.abs().max(), right * torch.nan):
        with pytest.raises(StageError, match="here gives other outputs"):
            export._checked("here", net, images, [wrong])


OWN = """
from torch import nn


def net(num_classes, in_channels, image_size):
    width = in_channels * image_size * image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


def test_own_code_is_run_for_an_export_only_if_trusted(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_net_of_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, _ = saved(tmp_path / "net", model="own_net_of_parts:net")
    for form, (ending, write) in export.EXPORTS.items():
        with pytest.raises(UserError, match="If you trust it"):
            write(folder, tmp_path / f"{form}{ending}")
    for form in ("safetensors", "torch-export"):
        ending, write = export.EXPORTS[form]
        assert write(folder, tmp_path / f"{form}{ending}", True)


def test_parts_that_there_are_not_are_told_with_those_that_there_are() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with pytest.raises(UserError, match=r"unknown part 'tail'\. Known: embed, head-dim, heads, mlp"):
        raybench.prune(net, torch.zeros(1, 8), 2, parts=["tail"])


NET = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("speedup", ["2", None, True, float("inf"), float("nan")])
def test_a_speed_up_is_a_number(speedup) -> None:
    with pytest.raises(UserError, match=r"speedup: found .*, expected a number above 1"):
        raybench.prune(NET, torch.zeros(1, 8), speedup)


@pytest.mark.parametrize(
    ("criterion", "said"), [(Scoring, r"an Importance; give an object: Scoring\(\)$"), (3, "an Importance$")]
)
def test_a_criterion_is_a_name_or_an_object(criterion, said) -> None:
    with pytest.raises(UserError, match=f"criterion: found .*, expected a name or {said}"):
        raybench.prune(NET, torch.zeros(1, 8), 2, criterion)


def test_layers_of_a_group_are_those_whose_outputs_shrink() -> None:
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), depthwise, nn.Conv2d(6, 4, 1), nn.Flatten())
    (group,) = raybench.inspect(net, IMAGES).groups
    assert group.layers == ("0", "2")


def test_why_a_batch_was_not_timed_is_one_line() -> None:
    class Refuses(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("\none image only\nand a long story")

    assert measure._many([Refuses()] * 2, IMAGES[:1]) == (None, None, "no pass of 32 images: one image only")
