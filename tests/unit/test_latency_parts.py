"""Latency as a target piece by piece: what a layer is in a table, what is timed and kept, how cuts are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported, StageError
from raybench.groups.cost import Cost
from raybench.groups.trace import trace
from raybench.pipeline import asked, measure
from raybench.pipeline.context import StageContext
from raybench.pipeline.latency import layers, meter, table
from raybench.pipeline.latency.layers import TimedLayer, timed_layers
from raybench.selection.meters import Counted
from raybench.selection.problem import Meter
from raybench.selection.records import Cut
from raybench.storage.local import LocalStorage
from raybench.storage.sealed import json_sha256
from raybench.sweep.digests import digest
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    """A convolution, its norm, a depthwise one, one with groups, and two linear layers that see 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.split = nn.Conv2d(8, 16, 1, groups=2)
        self.wide = nn.Linear(16, 4)
        self.layer = nn.LayerNorm(4)
        self.odd = nn.Conv2d(3, 3, 1, padding=1, padding_mode="reflect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.split(self.depth(torch.relu(self.norm(self.conv(x)))))
        return self.layer(self.wide(x.flatten(2).transpose(1, 2))).mean((1, 2))


@pytest.fixture(scope="module")
def net() -> SimpleNamespace:
    torch.manual_seed(0)
    model = Net().eval()
    groups = trace(model, IMAGE)
    cost = Cost.measure(model, IMAGE, groups)
    return SimpleNamespace(model=model, groups=groups, cost=cost, layers=timed_layers(model, IMAGE, cost.widths))


def test_layers_are_told_by_kind_grid_and_size(net) -> None:
    found = {layer.name: (layer.kind, layer.grid_in, layer.grid_out, layer.values) for layer in net.layers}
    kernel = "kernel_size (3, 3), stride {0}, padding (1, 1), dilation (1, 1)"
    narrow, whole = (1, 2, 4, 6, 8), (3,)
    assert list(found) == ["conv", "norm", "depth", "split", "wide", "layer"]
    assert found["conv"] == (f"Conv2d, {kernel.format('(2, 2)')} on 1x8x8", whole, narrow, 16.0)
    assert found["norm"] == ("BatchNorm2d, bias on 1x4x4", narrow, narrow, 16.0)
    assert found["depth"] == (f"Conv2d, {kernel.format('(1, 1)')}, depthwise, bias on 1x4x4", narrow, narrow, 16.0)
    assert found["split"] == (
        "Conv2d, kernel_size (1, 1), stride (1, 1), padding (0, 0), dilation (1, 1), groups 2, bias on 1x4x4",
        (2, 4, 6, 8), (2, 4, 8, 12, 16), 16.0,
    )  # fmt: skip
    assert found["wide"][0::3] == ("Linear, bias on 1x16", 16.0)
    assert found["wide"][1] == (2, 4, 8, 12, 16)
    assert found["layer"][0::3] == ("LayerNorm, bias on 1x16", 16.0)
    columns = net.cost.widths.column
    for layer in net.layers:
        tied = layer.name in ("norm", "depth", "layer")
        assert layer.out == columns(layer.name, "out")
        assert layer.into == (layer.out if tied else columns(layer.name, "in"))
    assert not net.model.conv._forward_hooks, "what listens is taken away"


@pytest.mark.parametrize(
    ("name", "widths", "shape", "made"),
    [
        ("conv", (3, 2), (1, 3, 8, 8), "Conv2d(3, 2, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)"),
        ("norm", (4, 4), (1, 4, 4, 4), "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True)"),
        ("depth", (4, 4), (1, 4, 4, 4),
         "Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=4)"),
        ("split", (4, 6), (1, 4, 4, 4), "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1), groups=2)"),
        ("wide", (8, 2), (1, 16, 8), "Linear(in_features=8, out_features=2, bias=True)"),
        ("layer", (2, 2), (1, 16, 2), "LayerNorm((2,), eps=1e-05, elementwise_affine=True)"),
    ],
)  # fmt: skip
def test_copies_at_other_widths_run_on_their_inputs(net, name, widths, shape, made) -> None:
    (layer,) = (one for one in net.layers if one.name == name)
    module, given = layer.build(*widths)
    assert repr(module).startswith(made[:-1])
    assert (given.shape, module.training, given.abs().sum()) == (torch.Size(shape), False, 0)
    last = name in ("wide", "layer")
    assert module(given).shape[-1 if last else 1] == widths[1]


def test_copies_have_every_setting_of_the_layer() -> None:
    for module, into, out in (
        (nn.Conv1d(4, 6, 3, 2, 1, 2, 2, bias=False), 4, 6), (nn.Conv3d(1, 2, 2), 1, 2),
        (nn.Linear(3, 4, bias=False), 3, 4), (nn.LayerNorm(4, 1e-3, elementwise_affine=False), 4, 4),
        (nn.BatchNorm1d(4, 1e-3, 0.2, affine=False, track_running_stats=False), 4, 4),
    ):  # fmt: skip
        assert repr(layers._copy(module, into, out)) == repr(module)
    assert layers._grid(16, 1, True) == (2, 4, 8, 12, 16)
    assert layers._grid(3, 1, True) == (1, 2, 3)
    assert layers._grid(12, 4, True) == (4, 8, 12)
    assert layers._grid(16, 1, False) == (16,)
    assert layers._known(nn.Linear(1, 1))
    assert not layers._known(nn.Conv2d(1, 1, 1, padding_mode="circular"))
    assert not layers._known(type("Own", (nn.Linear,), {"__module__": "mine"})(1, 1))
    assert layers._known(nn.Conv2d(4, 4, 1, groups=4))
    assert not layers._known(nn.Conv2d(4, 8, 1, groups=4))  # two outputs a channel


# Tables.


def layer_of(into: int = 0, out: int = 1, built: list | None = None) -> TimedLayer:
    def build(i: int, o: int):
        if built is not None:
            built.append((i, o))
        return nn.Linear(i, o), torch.zeros(1, i)

    return TimedLayer("fc", "a kind", into, out, (1, 3), (2, 4), 5.0, build)


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_a_table_has_a_row_for_each_input_width_and_is_kept(storage) -> None:
    built, timed = [], []

    def time(module: nn.Module, given: torch.Tensor) -> float:
        timed.append((given.shape[1], module.out_features, given.device))
        return 10.0 * module.in_features + module.out_features

    found = table.layer_times(layer_of(built=built), CPU, storage, time)
    assert built == [(1, 2), (1, 4), (3, 2), (3, 4)]
    assert timed == [(*pair, CPU) for pair in built]
    assert (found.grid_in, found.grid_out, found.ms.tolist()) == ((1, 3), (2, 4), [[12.0, 14.0], [32.0, 34.0]])
    (key,) = storage.list("latency/")
    shape = {
        "device": table.device_words(CPU), "layer": "a kind", "torch": torch.__version__, "widths_in": [1, 3],
        "widths_out": [2, 4], "tied": False,
    }  # fmt: skip
    assert key == f"latency/{digest('layer', shape)}.json"
    content = json.loads(storage.read(key))
    assert content.pop("sha256") == json_sha256(content, "sha256")
    assert content == shape | {"ms": [[12.0, 14.0], [32.0, 34.0]]}
    again = table.layer_times(layer_of(), CPU, storage, lambda *args: pytest.fail("timed again"))
    assert again.ms.tolist() == found.ms.tolist()


def test_a_layer_whose_outputs_follow_its_inputs_has_one_row(storage) -> None:
    built = []
    found = table.layer_times(layer_of(1, 1, built), CPU, storage, lambda module, given: float(module.in_features))
    assert built == [(2, 2), (4, 4)]
    assert found.ms.tolist() == [[2.0, 4.0]] * 2
    assert json.loads(storage.read(storage.list("latency/")[0]))["tied"] is True


def test_timings_that_scatter_are_made_to_rise() -> None:
    found = table.rising(np.array([[1.0, 3.0, 2.0]]))
    assert found.tolist() == [[1.0, 2.5, 2.5]]
    assert table.rising(np.array([[3.0], [1.0]])).tolist() == [[2.0], [2.0]]


def test_devices_are_named_with_their_threads(monkeypatch) -> None:
    monkeypatch.setattr(table, "cpu_name", lambda: "a processor")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert table.device_words(CPU) == "a processor, 3 threads"
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", {device: "a GPU"}.get)
    assert table.device_words(device) == "a GPU"


def test_what_is_no_table_is_set_aside(storage) -> None:
    good = {"device": "d", "layer": "l", "ms": [[1.0]]}
    storage.create("latency/a.json", json.dumps(good | {"sha256": json_sha256(good, "sha256")}).encode())
    assert table.read_ms(storage, "latency/a.json").tolist() == [[1.0]]
    assert table.read_ms(storage, "latency/b.json") is None
    for number, bad in enumerate(({"ms": 3}, {"ms": [3]}, {"ms": [["x"]]}, {"device": 1}, {"layer": None})):
        content = good | bad
        key = f"latency/{number}.json"
        storage.create(key, json.dumps(content | {"sha256": json_sha256(content, "sha256")}).encode())
        with pytest.warns(UserWarning, match="its content is not what was written, so it is measured again"):
            assert table.read_ms(storage, key) is None
        assert not storage.has(key)


def test_layers_and_networks_are_timed_at_their_paces(monkeypatch) -> None:
    said = []
    for place in (table, meter):
        monkeypatch.setattr(place, "median_ms", lambda *args: said.append(args) or 1.0)
        assert place._time("module", "given") == 1.0
    assert said == [("module", "given", measure.Pace(3, 21, 3, 1.0)), ("module", "given", measure.ONE)]


def test_stacked_tables_add_up_to_each_layers_own(net, storage) -> None:
    def time(module: nn.Module, given: torch.Tensor) -> float:
        return float(sum(p.numel() for p in module.parameters()) ** 0.5)

    times = [table.layer_times(layer, CPU, storage, time) for layer in net.layers]
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(1, size + 1, 20) for size in net.cost.sizes], axis=-1)
    for some in (counts, counts[0], counts.reshape(4, 5, -1)):
        widths = net.cost.widths.at(some)
        pairs = zip(net.layers, times, strict=True)
        each = [one.at(widths[..., layer.into], widths[..., layer.out]) for layer, one in pairs]
        np.testing.assert_allclose(table.Stacked.of(net.layers, times).total(widths), sum(each), rtol=1e-12)


# The prediction.


def test_the_whole_network_is_timed_at_five_widths_once(net, storage) -> None:
    timed = []

    def time(module: nn.Module, image: torch.Tensor) -> float:
        assert not module.training
        timed.append((module.conv.out_channels, image is IMAGE))
        return float(len(timed))

    cuts = meter._cuts(net.groups, meter.WHOLE)
    place = [group.name for group in net.groups].index("conv")
    assert [int(counts[place]) for counts in cuts] == [4, 3, 2, 2, 2], "of 4 units, of which 2 stay"
    points = [meter._Point(net.model, net.groups, None, counts) for counts in cuts]
    assert meter._whole(IMAGE, points, storage, "k", time) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert timed == [(width, True) for width in (8, 6, 4, 4, 4)]
    assert net.model.conv.out_channels == 8
    (key,) = storage.list("latency/")
    shape = {"device": table.device_words(CPU), "layer": "whole network k", "torch": torch.__version__}
    assert key == f"latency/{digest('whole', shape)}.json"
    content = json.loads(storage.read(key))
    assert {name: content[name] for name in (*shape, "ms")} == shape | {"ms": [[1.0, 2.0, 3.0, 4.0, 5.0]]}
    again = meter._whole(IMAGE, points, storage, "k", lambda *args: pytest.fail("again"))
    assert again == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_prediction_is_the_sum_of_its_parts(net, storage) -> None:
    def time(module: nn.Module, image: torch.Tensor) -> float:
        return float(sum(p.numel() for p in module.parameters()))

    found = meter.latency_meter(net.model.train(), IMAGE, net.groups, storage, "k", time)
    net.model.eval()
    sizes = net.cost.sizes
    one, tables, values, params, blocks = found.parts(sizes)
    assert (one, params, blocks) == (1.0, float(net.cost.params(sizes)), 0.0)
    assert values == sum(16.0 * width for width in (8, 8, 8, 16, 4, 1)), "the last norm keeps its width"
    assert tables == sum(sum(p.numel() for p in module.parameters()) for name, module in net.model.named_modules()
                         if name and name != "odd")  # fmt: skip
    assert [layer.name for layer in found.layers] == [layer.name for layer in net.layers]
    assert float(found.of(sizes)) == pytest.approx(float(np.dot(found.factors, [one, tables, values, params, blocks])))
    assert found.meter.base == float(found.of(sizes))
    assert found.meter.of(sizes) == found.of(sizes)
    assert found.scaled(3.0) == replace(found, factors=tuple(3.0 * factor for factor in found.factors))
    assert float(replace(found, factors=(0.0,) * 5).of(sizes)) == 1e-9


def test_factors_are_fitted_to_relative_errors_and_none_is_negative() -> None:
    parts = np.array([[1.0, 2.0, 0.0, 1e6], [1.0, 4.0, 0.0, 5e6], [1.0, 8.0, 0.0, 2e6]])
    factors = (0.5, 0.25, 0.0, 2e-6)
    found = meter._fitted(parts, parts @ np.array(factors))
    assert found == pytest.approx(factors, abs=1e-9)
    assert all(isinstance(one, float) for one in found)
    falling = meter._fitted(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0]))
    assert min(falling) >= 0
    assert falling[0] == pytest.approx(1.2), "of 1.0 and 2.0, by relative errors"


# What is asked for.


def test_amounts_of_base_are_one_pass(monkeypatch) -> None:
    calls, trials = [], [trial(speedup=2.0), trial(speedup=4.0)]

    def select(*args, **named):
        calls.append((args, named))
        return "cuts"

    assert asked.OF_MACS.cuts(select, trials) == "cuts"
    assert asked.OfBase(Meter.params).cuts(select, trials) == "cuts"
    assert calls == [(([2.0, 4.0],), {}), (([2.0, 4.0],), {"meter": Meter.params})]
    given = ("model", "image", "groups", "context")
    assert asked.asked_of(trial(), *given) is asked.OF_MACS
    assert asked.asked_of(trial(target="params"), *given) == asked.OfBase(Counted(Meter.params))
    monkeypatch.setitem(asked.ASKED, "latency_ms", lambda *args: args)
    one = trial(target="latency_ms")
    assert asked.asked_of(one, *given) == (one, *given, None)


def test_a_table_is_made_with_the_machine_alone_and_cuts_are_timed_on_copies(monkeypatch, tmp_path) -> None:
    calls, net = [], nn.Linear(1, 1)
    context = StageContext(LocalStorage(tmp_path))
    answers = iter([("meter", None), ([5.0, 2.5], None), (None, "shared")])
    context.machine.timed = lambda timing: calls.append(("timed", timing())) or next(answers)
    monkeypatch.setattr(asked, "latency_meter", lambda *args, removable: calls.append(("meter", *args)) or "made")
    monkeypatch.setattr(asked, "medians_ms", lambda *args: calls.append(("medians", *args)) or 1.0)
    monkeypatch.setattr(asked.surgery, "apply", lambda *args: calls.append(("apply", *args)))
    monkeypatch.setattr(asked, "device_words", {CPU: "a device"}.get)
    one = trial(target="latency_ms", keep=("a",), model_params={"w": 1})
    found = asked._latency(one, net, IMAGE, "groups", context)
    key = digest("network", {
        "dataset": "digits", "dataset_params": {}, "model": "cifar-resnet20", "model_params": {"w": 1},
        "model_version": 1, "model_source": None, "prune": (), "keep": ("a",), "only": (),
    })  # fmt: skip
    assert calls == [("meter", net, IMAGE, "groups", context.storage, key), ("timed", "made")]
    assert (found.prediction, found.device, found.relative) == ("meter", "a device", False)
    calls.clear()
    cut = Cut({"a": (0,)}, 2.0, 2.0, 1, 1, 1, 1)
    assert found.time(cut) == (5.0, 2.5)
    slim = calls[0][1]
    assert calls == [
        ("apply", slim, "groups", {"a": (0,)}), ("medians", [calls[1][1][0], slim], IMAGE, asked.LONG), ("timed", 1.0)
    ]  # fmt: skip
    assert len({id(net), id(slim), id(calls[1][1][0])}) == 3
    with pytest.raises(StageError) as caught:
        found.time(cut)
    assert (str(caught.value), caught.value.stage) == (
        "no latency could be measured: shared; the same command tries again", "select",
    )  # fmt: skip


def test_a_latency_that_the_network_has_already_is_told() -> None:
    line = SimpleNamespace(meter=Meter(4.0, None))
    for amount in (4.0, 5.5):
        with pytest.raises(NotSupported) as caught:
            asked.OfLatency(line, "a device", None).cuts(None, [trial(speedup=amount, target="latency_ms")])
        already = f"latency_ms: found {amount:g}; the uncut network takes 4 ms on a device already"
        assert str(caught.value) == f"{already} (`latency: 2` asks for half of its time)"
