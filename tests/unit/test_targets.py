"""Targets other than MACs: parameters and milliseconds, from the sweep's words to the board."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.cli import prune
from raybench.cli.main import main
from raybench.cli.prune_options import sweep_of as sweep_of_options
from raybench.datasets.open import facts_of
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.pipeline.asked import OfLatency, missed
from raybench.pipeline.latency.meter import latency_meter
from raybench.pipeline.latency.table import FOLDER, LayerTimes, rising
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import identity
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.selection.problem import Meter
from raybench.selection.records import Cut
from raybench.selection.select import select
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import amount, amount_of
from tests.pruning_nets import small_resnet, small_vit
from tests.unit.cuts import IMAGE, L2
from tests.unit.result_rows import row, trial
from tests.unit.sweeps import AXES, problems_of, sweep, written

PLAIN = {**AXES, "methods": "magnitude-l2", "models": "test-convnet", "seeds": 0}


def asked(**changes) -> list[str]:
    return [amount(*one.asked) for one in resolve(Sweep.model_validate(PLAIN | changes))]


def test_speedups_and_targets_are_one_axis() -> None:
    targets = {"params": ["2x", 3.5], "latency_ms": "1.5 ms", "latency": ["1.5x", 2]}
    expected = ["2x", "4x", "2x params", "3.5x params", "1.5 ms", "1.5x latency", "2x latency"]
    assert asked(targets=targets) == expected
    alone = {key: value for key, value in PLAIN.items() if key != "speedups"}
    found = resolve(Sweep.model_validate(alone | {"targets": {"params": 2}}))
    assert [one.asked for one in found] == [(None, None, 2.0, None, None)]


def test_an_entry_that_asks_for_amounts_asks_for_all_of_its_own() -> None:
    models = ["test-convnet", {"name": "test-vit", "targets": {"latency_ms": 2}}]
    assert asked(models=models, targets={"params": 2}) == ["2x", "4x", "2x params", "2 ms"]
    included = {"include": {"targets": {"params": 8}}}
    assert asked(**included) == ["2x", "4x", "8x params"]
    assert asked(targets={"params": 2}, exclude={"speedups": 4}) == ["2x", "2x params"]


def test_ids_of_speedups_stay_and_kinds_have_ids_of_their_own() -> None:
    plain = resolve(Sweep.model_validate(PLAIN))
    both = resolve(
        Sweep.model_validate(PLAIN | {"targets": {"params": [2, 4], "latency_ms": [2, 4], "latency": [2, 4]}})
    )
    assert [one.trial_id for one in both][:2] == [one.trial_id for one in plain]
    assert len({one.trial_id for one in both}) == len({one.select_key for one in both}) == 8
    assert len({one.pass_key for one in both}) == 6, "one pass for MACs, one for parameters, one for each latency"
    assert "target" not in both[0].model_dump()
    assert both[2].model_dump()["target"] == "params"
    for one in both:  # what a sibling is given and what is computed anew are the same
        assert type(one)(**one.model_dump()).trial_id == one.trial_id
    assert len({identity(one)["config_id"] for one in both}) == 1


@pytest.mark.parametrize(
    ("changes", "message", "path"),
    [
        ({"targets": {"params": 1}}, "found 1, expected a number above 1 and at most 10000", ("targets", "params", 0)),
        ({"targets": {"latency_ms": [0]}}, "found 0, expected a number above 0", ("targets", "latency_ms", 0)),
        ({"targets": {"latency_ms": "fast"}}, "found 'fast', expected a number", ("targets", "latency_ms", 0)),
        ({"targets": {"latency": 1}}, "found 1, expected a number above 1 and", ("targets", "latency", 0)),
        ({"targets": {"latency": [2, 0.7]}},
         "found 0.7, expected a number above 1, as speedups are: uncut / pruned, such as 1.43",
         ("targets", "latency", 1)),
        ({"targets": {}},
         "found no target, expected params, latency or latency_ms; MACs are the key speedups", ("targets",)),
        ({"targets": {"param": 2}}, "unknown key. Did you mean 'params'?", ("targets", "param")),
        ({"targets": {"params": [2, 2]}}, "found 2.0 twice, expected each value once", ("targets", "params", 1)),
        ({"targets": {"params": 2}, "protocol": "pruningbench"},
         "found targets, expected none: protocol pruningbench prunes to speedups", ("targets",)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_targets_is_said(changes, message, path) -> None:
    (found,) = problems_of(Sweep, PLAIN | changes)
    assert found[0].startswith(message)
    assert found[1] == path


def test_a_ratio_has_no_other_target() -> None:
    fields = {key: value for key, value in PLAIN.items() if key != "speedups"}
    ((message, path),) = problems_of(Sweep, fields | {"ratio": 0.5, "targets": {"params": 2}})
    assert (message, path) == ("found targets, expected none: the sweep has a ratio", ("targets",))


@pytest.mark.parametrize("target", [2.0, 3.0])
@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_a_cut_to_parameters_has_them(make, target) -> None:
    model = make().eval()
    groups = trace(model, IMAGE)
    cut = select(Scoring(L2, model), IMAGE, groups, [target], meter=Meter.params)[target]
    assert cut.params_base == sum(p.numel() for p in model.parameters())
    assert cut.reason is None
    assert abs(cut.params_base / cut.params / target - 1) <= 0.005
    assert abs(cut.speedup / target - 1) > 0.005, "MACs are another cost"


# -- latency -----------------------------------------------------------------------------------------------------


def weight_time(module: nn.Module, given: torch.Tensor) -> float:
    """A machine on which a pass takes 1 us a parameter; of a whole network 50 us more."""
    whole = not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    return sum(p.numel() for p in module.parameters()) / 1000 + 0.05 * whole


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "st")


def test_a_latency_is_predicted_between_the_widths_of_the_table(storage) -> None:
    model = small_resnet().eval()
    groups = trace(model, IMAGE)
    found = latency_meter(model, IMAGE, groups, storage, "net", weight_time)
    sizes = found.cost.sizes
    for share in (1.0, 0.6, 0.3):
        counts = np.ceil(sizes * share).astype(int)
        truth = float(found.cost.params(counts)) / 1000 + 0.05
        assert float(found.of(counts)) == pytest.approx(truth, rel=0.02)
    several = np.stack([sizes, sizes // 2])
    np.testing.assert_allclose(found.of(several), [found.of(one) for one in several])
    cut = select(Scoring(L2, model), IMAGE, groups, [2.0], meter=lambda cost: found.meter)[2.0]
    counts = np.array([len(units) for units in cut.kept.values()])
    assert cut.reason is None
    assert found.meter.base / found.of(counts) == pytest.approx(2.0, rel=0.005)


def test_a_table_is_measured_once_for_a_layer_shape_and_again_where_it_is_damaged(storage) -> None:
    model, seen = small_resnet().eval(), []

    def time(module: nn.Module, given: torch.Tensor) -> float:
        seen.append(type(module).__name__)
        return weight_time(module, given)

    groups = trace(model, IMAGE)
    latency_meter(model, IMAGE, groups, storage, "net", time)
    first = len(seen)
    latency_meter(model, IMAGE, groups, storage, "net", time)
    assert first
    assert len(seen) == first
    convolutions = {json.loads(storage.read(name))["layer"] for name in storage.list(f"{FOLDER}/")}
    assert any("Conv2d, kernel_size (3, 3)" in one for one in convolutions)
    name = next(iter(storage.list(f"{FOLDER}/")))
    content = json.loads(storage.read(name))
    assert "thread" in content["device"]
    storage.replace(name, json.dumps({**content, "ms": [[1e-9]]}).encode())
    with pytest.warns(UserWarning, match="measured again"):
        latency_meter(model, IMAGE, groups, storage, "net", time)
    assert len(seen) > first


def test_a_layers_times_are_linear_between_grid_points_and_never_fall() -> None:
    times = LayerTimes((2, 4), (1, 3, 5), np.array([[1.0, 3.0, 5.0], [2.0, 6.0, 10.0]]))
    into, out = np.array([2, 3, 4, 4, 9, 1]), np.array([1, 2, 3, 4, 9, 0])
    np.testing.assert_allclose(times.at(into, out), [1.0, 3.0, 6.0, 8.0, 10.0, 1.0])
    steady = rising(np.array([[1.0, 0.8, 2.0], [0.9, 3.0, 2.5]]))
    assert (np.diff(steady, axis=0) >= 0).all()
    assert (np.diff(steady, axis=1) >= 0).all()
    already = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert (rising(already) == already).all()


class _Line:
    """A prediction: as many milliseconds as units, of 16."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.meter = factor, Meter(16.0 * factor, lambda counts: counts)

    def of(self, counts):
        return self.factor * counts.sum()

    def scaled(self, factor: float):
        return _Line(self.factor * factor)


def nearest(
    units: Callable[[float], int], ms: Iterator[float] | None = None, reason=None, target="latency_ms", asked=8.0
) -> tuple[Cut, list[int]]:
    """The cut for `asked`, and the units of every cut that was timed: at `ms`, or at 2 ms a unit; the uncut 40 ms."""
    tried: list[int] = []

    def select(targets, meter):
        tried.append(units(targets[0]))
        return {targets[0]: Cut({"a": tuple(range(tried[-1]))}, 2.0, 2.0, 1, 1, 1, 1, reason=reason)}

    def time(cut: Cut) -> tuple[float, float]:
        return 40.0, next(ms) if ms else 2.0 * len(cut.kept["a"])

    of = OfLatency(_Line(), "a device", time, relative=target == "latency")
    return of.cuts(select, [trial(speedup=asked, target=target)])[asked], tried


def test_a_wrong_prediction_is_scaled_to_what_is_timed() -> None:
    """The machine takes twice what the table says; the second cut is timed at the asked latency."""
    found, tried = nearest(lambda ratio: round(16 / ratio))
    assert tried == [8, 4]
    assert (found.target, found.selected_ms, len(found.kept["a"])) == (8.0, 8.0, 4)
    assert found.predicted_ms == 4.0, "what the table says, not what it was scaled to"


def test_a_share_of_the_time_is_of_the_uncut_network_timed_in_turns() -> None:
    """16 ms by the table, 40 ms measured; 8 units by the table are 16 ms, the second cut has half of 40 ms."""
    found, tried = nearest(lambda ratio: round(16 / ratio), target="latency", asked=2.0)
    assert tried == [8, 10]
    assert (found.target, found.selected_ms, found.predicted_ms) == (2.0, 20.0, 10.0)


def test_the_nearest_of_the_tried_cuts_is_taken_where_none_is_near() -> None:
    found, tried = nearest(lambda ratio: 8, iter([20.0, 9.0, 30.0, 40.0]))
    assert (found.selected_ms, len(tried)) == (9.0, 4)
    found, tried = nearest(lambda ratio: 8, iter([2.0]))  # scaled to it, the uncut network would take 4 ms
    assert (found.selected_ms, len(tried)) == (2.0, 1)
    found, tried = nearest(lambda ratio: 8, iter([30.0]), "floor: a")
    assert (found.reason, len(tried)) == ("floor: a (as uncut / cut milliseconds)", 1)


@pytest.mark.parametrize(
    ("ms", "why"),
    [
        (3.1, None),
        (2.86, None),
        (3.2, "latency: asked 3 ms, measured 3.2 ms (+7%); 3.02 ms when it was selected"),
        (2.0, "latency: asked 3 ms, measured 2 ms (-33%); 3.02 ms when it was selected"),
        (None, "latency: asked 3 ms, not checked: shared"),
    ],
)
def test_a_row_says_by_how_much_its_latency_is_missed(ms, why) -> None:
    assert missed(trial(speedup=3.0, target="latency_ms"), 9.0, ms, 3.02, "shared") == why
    assert missed(trial(speedup=3.0), 9.0, ms, None, "shared") is None


@pytest.mark.parametrize(
    ("base", "ms", "why"),
    [
        (9.0, 3.1, None),
        (18.0, 6.2, None),
        (9.0, 3.6, "latency: asked 3x, measured 2.5x (-17%): 3.6 of 9 ms; 3.02 ms when it was selected"),
        (None, None, "latency: asked 3x, not checked: shared"),
    ],
)
def test_a_row_says_by_how_much_its_share_of_the_time_is_missed(base, ms, why) -> None:
    assert missed(trial(speedup=3.0, target="latency"), base, ms, 3.02, "shared") == why


# -- reports and commands ----------------------------------------------------------------------------------------


def test_kinds_of_targets_are_ranked_apart_and_the_average_is_of_speedups(tmp_path) -> None:
    store = Store(open_storage(tmp_path))
    for place, target in enumerate(("macs", "params", "latency_ms", "latency")):
        for method, final in (("lamp", 96.0), ("random", 90.0)):
            for value in (2.0, 4.0):
                of = trial(method, speedup=value, target=target)
                store.publish(row(of, metric_final=final - place - value, speedup=2.0))
    boards = Leaderboard.read(store).boards
    assert [board.target for board in boards] == [
        "2x",
        "4x",
        "2x params",
        "4x params",
        "2 ms",
        "4 ms",
        "2x latency",
        "4x latency",
    ]
    assert {tuple(entry.method for entry in board.entries) for board in boards} == {("lamp", "random")}
    assert all(entry.n == 1 for board in boards for entry in board.entries)
    (average,) = Leaderboard.read(store, Query(speedup="average")).boards
    assert [entry.metric_final for entry in average.entries] == [93.0, 87.0]


def test_a_cell_is_reproduced_with_its_target(tmp_path) -> None:
    (one,) = resolve(sweep(models="test-convnet", methods="lamp", seeds=0, speedups=2, targets=None))
    for target, value in (("params", 3.0), ("latency_ms", 0.5), ("latency", 1.5)):
        of = one.model_copy(update={"target": target, "speedup": value})
        file = tmp_path / f"{target}.yaml"
        file.write_text(sweep_of(identity(of)["trial"]))
        (again,) = resolve(load_sweep(file))
        assert again.trial_id == of.trial_id
        assert again.trial_id != one.trial_id
        assert amount_of(identity(of)) == amount(*again.asked)


def test_a_sweep_of_three_kinds_runs_and_a_second_run_does_nothing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("raybench.pipeline.latency.table._time", weight_time)
    monkeypatch.setattr("raybench.pipeline.latency.meter._time", weight_time)
    monkeypatch.setattr(
        "raybench.pipeline.asked.medians_ms", lambda nets, image, pace: [weight_time(one, image) for one in nets]
    )
    lines = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: [magnitude-l2]\nspeedups: 2\n"
    base = "{epochs: 1, lr: 0.01}"
    recipe = f"recipe: {{name: tiny, base: {base}, finetune: {{epochs: 0, lr: 0.01}}}}\n"
    full = sum(p.numel() for p in _built().parameters()) / 1000 + 0.05
    targets = f"targets: {{params: 2, latency_ms: [{full / 2:.6f}, {2 * full:.6f}], latency: 2}}\n"
    file, place = written(tmp_path, lines + recipe + targets), str(tmp_path / "st")
    assert main(["run", str(file), "--local", "--storage", place]) == 0
    rows = {amount_of(one): one for one in Store(open_storage(place)).table().to_pylist()}
    for one in (rows["2x"], rows["2x params"]):  # a unit of so small a network is 2 % of it
        got = one["speedup"] if one["speedup_target"] else one["params_base"] / one["params"]
        assert got == pytest.approx(2, rel=0.01 if one["reason"] is None else 0.05)
    half = rows[f"{float(f'{full / 2:.6f}'):g} ms"]
    assert half["latency_selected_ms"] == pytest.approx(full / 2, rel=0.05)
    twice = rows["2x latency"]
    for name in ("latency_selected_ms", "latency_predicted_ms"):
        assert twice[name] == pytest.approx(full / 2, rel=0.05)
    assert half["params"] / 1000 + 0.05 == pytest.approx(half["latency_selected_ms"])
    beyond = next(one for one in rows.values() if one["status"] == "skipped")
    assert "the uncut network takes" in beyond["reason"]
    capsys.readouterr()
    assert main(["run", str(file), "--local", "--storage", place]) == 0
    assert "nothing to run: 5 cells planned, none missing" in capsys.readouterr().out
    assert main(["leaderboard", place]) == 0
    assert "test-convnet on digits, 2x params, protected-global" in capsys.readouterr().out


def _built() -> nn.Module:
    return build_model("test-convnet", facts_of(registry.dataset.entry("digits")))


def test_prune_takes_a_ratio_of_parameters(capsys) -> None:
    parser = argparse.ArgumentParser()
    prune.arguments(parser)
    known = parser.parse_args(["--model", "test-convnet", "--dataset", "digits", "--target-params", "2x", "4"])
    assert [one.asked for one in resolve(sweep_of_options(known))] == [
        (None, None, 2.0, None, None),
        (None, None, 4.0, None, None),
    ]
    with pytest.raises(SystemExit):
        main(["prune", "--model", "test-convnet", "--target-params", "1"])
    assert "--target-params: found '1', expected a number above 1, such as 2 or 2x" in capsys.readouterr().err
    assert main(["prune", "--model", "test-convnet", "--target-params", "2", "--protocol", "pruningbench"]) == 2
    assert "--target-params: found targets, expected none: protocol pruningbench" in capsys.readouterr().err
