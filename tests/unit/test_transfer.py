"""Model transfer: weights of other data, pruned before or after the network learns the new one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from raybench import registry
from raybench.cli.main import main
from raybench.datasets.open import facts_of
from raybench.errors import SpecError
from raybench.execution.attachments import repacked, weights_of
from raybench.execution.submission import _as_yaml
from raybench.groups.cost import Cost
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.models.grey import with_channels
from raybench.pipeline.cache import WEIGHTS
from raybench.plan.plan import plan, why_not
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import identity
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.selection.problem import Meter
from raybench.selection.select import select
from raybench.storage.hashing import file_sha256
from raybench.storage.open import open_storage
from raybench.sweep.nodes import as_yaml
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from tests.unit.cuts import L2
from tests.unit.errors import error_of
from tests.unit.result_rows import trial
from tests.unit.sweeps import AXES, problems_of, written

BOTH = ["none", "prune-then-transfer", "transfer-then-prune"]
TEXT = """
name: s
datasets: {data}
models: test-convnet
methods: [magnitude-l2, random]
speedups: 2
base: {{from: {source}}}
transfer: [none, prune-then-transfer, transfer-then-prune]
recipe: {{name: t, base: {{epochs: 2, lr: 0.01}}, finetune: {{epochs: 1, lr: 0.01}}}}
"""


@pytest.fixture
def other(tmp_path):
    """A plug-in dataset `dots` of 16x16 coloured images, and options that load it."""
    file = tmp_path / "dots.py"
    file.write_text(
        "import torch\n"
        "from raybench.datasets.data import Data, Pixels, TensorImages\n"
        "from raybench.registry import dataset\n"
        '@dataset("dots", task="classification", classes=3, in_channels=3, image_size=16, mean=(0.5, 0.5, 0.5), '
        'std=(0.5, 0.5, 0.5), licence="made here", embedded=True)\n'
        "def dots(facts, root):\n"
        "    labels = torch.arange(60) % 3\n"
        "    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0)) / 4\n"
        "    images[torch.arange(60), labels] += 0.5\n"
        "    pixels = Pixels(images)\n"
        "    parts = {'train': range(30), 'val': range(30, 42), 'test': range(42, 60), 'whole': range(42)}\n"
        "    splits = {n: TensorImages(pixels, labels, torch.tensor(list(i))) for n, i in parts.items()}\n"
        "    return Data(facts, split_note='by hand', **splits)\n"
    )
    registry.add_plugin(file)
    return file


def trials(source="digits", **changes):
    fields = {**AXES, "datasets": "cifar10", "models": "test-convnet", "methods": "magnitude-l2", "seeds": 0}
    return resolve(Sweep.model_validate(fields | {"speedups": 2, "base": {"from": source}, **changes}))


@pytest.fixture(autouse=True)
def no_cifar(monkeypatch):
    monkeypatch.setattr("raybench.sweep.resolve.data_fingerprint", lambda *args, **more: None)


def test_the_axis_makes_a_cell_of_each_value_and_bases_follow_their_source() -> None:
    none, first, last = trials(transfer=BOTH)
    assert [one.transfer for one in (none, first, last)] == BOTH
    (plain,) = resolve(
        Sweep.model_validate({**AXES, "datasets": "cifar10", "models": "test-convnet", "methods": "magnitude-l2",
                              "seeds": 0, "speedups": 2})
    )  # fmt: skip
    assert none.trial_id == plain.trial_id
    assert first.base_key == last.base_key != none.base_key
    assert len({one.select_key for one in (none, first, last)}) == 3
    assert last.weights.identity == last.weights.source.base_key
    assert (last.weights.source.dataset, last.transfer_from) == ("digits", "digits")
    assert (first.tuning.epochs, last.tuning.epochs) == (3, 1), "all see the target for three epochs"
    assert [one.transfer for one in trials()] == ["transfer-then-prune"]
    (changed,) = trials(recipe={**AXES["recipe"], "base": {"epochs": 3, "lr": 0.1}})
    assert changed.weights.identity != last.weights.identity, "the source is identified by all that made it"


def test_the_plan_trains_the_source_first_and_once() -> None:
    planned = plan(Sweep.model_validate({**AXES, "datasets": "cifar10", "models": "test-convnet", "seeds": 0,
                                         "methods": ["magnitude-l2", "random"], "speedups": 2,
                                         "base": {"from": "digits"}, "transfer": BOTH}))  # fmt: skip
    bases = [unit for unit in planned.units if unit.kind == "base"]
    assert [unit.trials[0].dataset for unit in bases] == ["cifar10", "digits", "cifar10"]
    assert [unit.needs for unit in bases] == [(), (), (bases[1].key,)]
    assert Counter(unit.kind for unit in planned.units) == {"base": 3, "select": 6, "cell": 6}


@pytest.mark.parametrize(
    ("changes", "message", "path"),
    [
        ({"transfer": "prune-then-transfer"},
         "found prune-then-transfer, expected a source: base: {from: DATASET or FILE}", ("transfer",)),
        ({"base": {"from": "digit"}}, "found 'digit', expected a dataset, a file of weights, or STORAGE/TRIAL_ID of a "
         "finished cell; there is no such file or dataset. Did you mean 'digits'?", ("base", "from")),
        ({"base": {"from": "none/0123456789abcdef"}},
         "found 'none/0123456789abcdef'; none is no folder with a finished cell 0123456789abcdef", ("base", "from")),
        ({"base": {"from": "digits"}, "transfer": "none"},
         "found a source, expected a transfer other than none, or no base", ("base",)),
        ({"base": {"from": "digits"}, "protocol": "pruningbench"},
         "found a source, expected none: protocol pruningbench starts from the dataset's own base", ("base",)),
        ({"base": {"from": "digits"}, "transfer": ["none", "none"]},
         "found 'none' twice, expected each value once", ("transfer", 1)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_transfer_is_said(changes, message, path) -> None:
    ((found, place),) = problems_of(Sweep, AXES | changes)
    assert (found, place) == (message, path)


ITSELF = "found digits, which is the dataset itself; expected another one"
DETECTION = "found digits-detection, which is data for detection; cifar10 is for classification"


@pytest.mark.parametrize(
    ("source", "datasets", "message"),
    [
        ("digits", "digits", ITSELF),
        ("digits", ["cifar10", "digits"], ITSELF),
        ("digits-detection", "cifar10", DETECTION),
    ],
)
def test_the_source_is_other_data_of_the_same_task(tmp_path, source, datasets, message) -> None:
    fields = {**AXES, "datasets": datasets, "models": "test-convnet", "methods": "random", "speedups": 2}
    file = tmp_path / "sweep.yaml"
    file.write_text(as_yaml(fields | {"base": {"from": source}}))
    line = file.read_text().splitlines().index(f"base: {{from: {source}}}") + 1
    assert error_of(load_sweep, file) == f"{file}:{line}: base.from: {message}"


def test_data_that_an_exclusion_takes_from_the_transfer_may_be_the_source() -> None:
    both = {"datasets": ["cifar10", "digits"], "transfer": ["none", "transfer-then-prune"]}
    found = trials(**both, exclude={"datasets": "digits", "transfer": "transfer-then-prune"})
    assert [(one.dataset, one.transfer) for one in found] == [
        ("cifar10", "none"), ("digits", "none"), ("cifar10", "transfer-then-prune"),
    ]  # fmt: skip
    with pytest.raises(SpecError, match=f"base.from: {ITSELF}"):
        trials(**both, exclude={"datasets": "digits", "transfer": "none"})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"importance": "taylor"}, "taylor looks at images"),
        ({"importance": "magnitude-l2", "params": {"repair": "ridge"}}, "magnitude-l2 looks at images"),
        ({"importance": "magnitude-l2", "regularizer": "group-norm"}, "magnitude-l2+group-norm trains before the cut"),
        ({"importance": "magnitude-l2", "params": {"train": "scratch"}}, "magnitude-l2 keeps no channels of it"),
        ({"importance": "magnitude-l2"}, None),
    ],
)
def test_what_needs_the_sources_images_is_skipped_by_name(fields, why) -> None:
    found = why_not(trial(**fields, transfer="prune-then-transfer", transfer_from="digits"))
    assert found == (why and f"prune-then-transfer chooses channels by the source's weights alone; {why}")
    assert why_not(trial(**fields, transfer="transfer-then-prune", transfer_from="digits")) is None


def test_grey_weights_become_coloured_ones_and_back() -> None:
    grey, colour = nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3)
    image = torch.rand(2, 1, 8, 8)
    colour.load_state_dict(with_channels(colour, grey.state_dict()))
    torch.testing.assert_close(colour(image.expand(-1, 3, -1, -1)), grey(image))
    back = nn.Conv2d(1, 4, 3)
    back.load_state_dict(with_channels(back, colour.state_dict()))
    torch.testing.assert_close(back(image), grey(image))
    wide = with_channels(nn.Conv2d(2, 4, 3), colour.state_dict())
    assert wide["weight"].shape == (4, 3, 3, 3), "what differs otherwise is left for the message about it"


def test_a_transfer_runs_both_ways_and_a_second_run_does_nothing(other, tmp_path, capsys) -> None:
    file, place = written(tmp_path, TEXT.format(data="dots", source="digits")), str(tmp_path / "st")
    options = ["--local", "--storage", place, "--plugin", str(other)]
    assert main(["run", str(file), *options]) == 0
    storage = open_storage(place)
    rows = {(one["method"], one["transfer"]): one for one in Store(storage).table().to_pylist()}
    assert {one["status"] for one in rows.values()} == {"ok"}
    assert {one["transfer_from"] for one in rows.values()} == {None, "digits"}
    first, last = (rows["magnitude-l2", how] for how in BOTH[1:])
    assert first["base_sha256"] == last["base_sha256"] != rows["magnitude-l2", None]["base_sha256"]
    epochs = {key: sum(e["stage"] == "finetune" for e in one["curve"]) for key, one in rows.items()}
    assert (epochs["magnitude-l2", BOTH[1]], epochs["magnitude-l2", BOTH[2]]) == (3, 1)
    for name, one in (("first", first), ("last", last)):
        assert one["speedup"] == pytest.approx(2, rel=0.05), name
    assert json.loads(first["kept"]) == _cut_of_source(storage, first) != json.loads(last["kept"])
    capsys.readouterr()
    assert main(["run", str(file), *options]) == 0
    assert "nothing to run: 6 cells planned, none missing" in capsys.readouterr().out
    assert main(["leaderboard", place]) == 0
    assert "magnitude-l2 (transfer=prune-then-transfer)" in capsys.readouterr().out
    # a finished cell and its file are the same source, by their content
    (id_,) = [one["trial_id"] for key, one in rows.items() if key == ("magnitude-l2", None)]
    weights = Path(place) / "stages" / rows["magnitude-l2", None]["base_key"] / WEIGHTS
    for given in (f"{place}/{id_}", str(weights)):
        of_cell = resolve(load_sweep(written(tmp_path, TEXT.format(data="digits", source=given), "of.yaml")))
        assert {one.transfer_from for one in of_cell} == {None, file_sha256(weights)}
        assert {one.weights.identity for one in of_cell} == {"", file_sha256(weights)}


def _cut_of_source(storage, row) -> dict[str, list[int]]:
    """What is kept of the digits' network, with its own classifier and costs of the dots' network, of three classes."""
    facts = facts_of(registry.dataset.entry("dots"))
    source = build_model("test-convnet", replace(facts, classes=10)).eval()
    dense = load_file(storage.fetch(f"stages/{json.loads(row['trial'])['weights']['identity']}") / WEIGHTS)
    source.load_state_dict(with_channels(source, dense))
    net, image = build_model("test-convnet", facts).eval(), torch.zeros(1, *facts.image_shape)
    groups = trace(net, image, classes=3)
    own = Meter.macs(Cost.measure(net, image, groups))
    cut = select(Scoring(L2, source), image, groups, [2.0], meter=lambda cost: own)[2.0]
    counts = np.array([len(units) for units in cut.kept.values()])
    assert (row["macs"], row["macs_base"]) == (own.of(counts), own.base)
    return {name: list(units) for name, units in cut.kept.items()}


def test_a_sweep_with_a_source_or_targets_is_sent_as_it_is(tmp_path) -> None:
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(b"weights")
    for source, files in (("digits", []), (str(weights), [weights])):
        one = Sweep.model_validate({**AXES, "datasets": "cifar10", "base": {"from": source}, "transfer": BOTH})
        assert list(weights_of(one, []).values()) == files
        sent = _as_yaml(repacked(one, {"weights/a.safetensors": weights}))
        assert sent["base"] == {"from": "weights/a.safetensors" if files else source}
        assert Sweep.model_validate(_as_yaml(one)) == one
    alone = {key: value for key, value in AXES.items() if key != "speedups"} | {"targets": {"params": 2}}
    assert Sweep.model_validate(_as_yaml(Sweep.model_validate(alone))) == Sweep.model_validate(alone)


def test_a_transferred_cell_is_reproduced(tmp_path) -> None:
    _, first, last = trials(transfer=BOTH)
    for one in (first, last):
        file = tmp_path / "again.yaml"
        file.write_text(sweep_of(identity(one)["trial"]))
        assert [again.trial_id for again in resolve(load_sweep(file))] == [one.trial_id]
