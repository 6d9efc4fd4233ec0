"""How a stage computes, without a GPU: choices as tables, switches, CUDA graphs by a stand-in, what is logged."""

from __future__ import annotations

import logging
from dataclasses import asdict

import pytest
import torch
from torch import nn

from raybench.errors import UserError
from raybench.progress.epochs import EPOCHS
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks.training import augment, computing, loop, progress, resizing
from raybench.tasks.training.computing import Computing, choose, kernels, laid_out
from raybench.tasks.training.ema import Average
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import deterministic, generator

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALL = {"precision": "fp32", "memory_format": "nchw", "deterministic": True, "graphs": "off", "compile": "off"}


def recipe(**options) -> TrainRecipe:
    return TrainRecipe(**({"epochs": 1, "lr": 0.1} | options))


@pytest.mark.parametrize(
    ("device", "speed", "amp", "changed", "note"),
    [
        (CPU, {}, False, {}, ""),
        (CPU, {}, True, {"precision": "bf16"}, ""),
        (CPU, {"precision": "bf16", "compile": "auto"}, False, {"precision": "bf16", "compile": "auto"}, ""),
        (CPU, {"graphs": "auto", "deterministic": False}, False, {}, "no graphs on cpu"),
        (CPU, {"memory_format": "channels_last"}, False, {"memory_format": "channels_last"}, ""),
        (CPU, {"memory_format": "auto", "graphs": "auto"}, False, {}, "nchw: no 2-d convolutions; no graphs on cpu"),
        (CUDA, {}, False, {}, ""),
        (CUDA, {"deterministic": False}, False, {"deterministic": False}, ""),
        (CUDA, {"graphs": "auto"}, False, {"graphs": "auto"}, ""),
        (CUDA, {"precision": "tf32"}, False, {"precision": "tf32"}, ""),
        (CUDA, {"precision": "tf32"}, True, {"precision": "bf16"}, ""),
        (torch.device("meta"), {"precision": "bf16"}, False, {"precision": "bf16", "deterministic": True}, ""),
    ],
)
def test_what_is_chosen_from_what_is_asked_for(device, speed, amp, changed, note, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    found = choose(nn.Linear(2, 2), Speed(**(ALL | speed)), device, (4, 2), amp=amp)
    assert asdict(found) == ALL | changed | {"speed_note": note}
    assert found.columns() == ALL | changed | {"speed_note": note or None}


def test_an_empty_speed_is_exact_and_old_gpus_fall_back(monkeypatch) -> None:
    assert asdict(choose(nn.Linear(1, 1), Speed(), CPU, (1, 1), amp=False)) == ALL | {"speed_note": ""}
    assert choose(nn.Linear(1, 1), Speed(), CUDA, (1, 1), amp=False).deterministic is False
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    for precision in ("tf32", "bf16"):
        found = choose(nn.Linear(1, 1), Speed(**ALL | {"precision": precision}), CUDA, (1, 1), amp=False)
        assert (found.precision, found.speed_note) == ("fp32", f"no {precision} on T4")
    assert Computing() == Computing("", "nchw", True, "off", "off", "")
    assert Computing().noting("a").noting("", "b", graphs="on") == Computing(graphs="on", speed_note="a; b")


@pytest.mark.parametrize(
    ("device", "other", "fastest"),
    [(CPU, 2.345, "nchw"), (CPU, 1.2, "nchw"), (CPU, 1.17, "channels_last"), (CUDA, 2.345, "nchw"),
     (CUDA, 1.2, "nchw"), (CUDA, 1.19, "channels_last")],
)  # fmt: skip
def test_the_faster_format_is_chosen_and_told(device, other, fastest, monkeypatch) -> None:
    asked = []

    def took(model, candidates, where, shape):
        asked.append(([chosen.memory_format for chosen in candidates], where, shape))
        return [1.234, other]

    monkeypatch.setattr(computing, "_milliseconds", took)
    found = choose(nn.Conv2d(3, 4, 1), Speed(**ALL | {"memory_format": "auto"}), device, (8, 3, 5, 5), amp=False)
    note = f"a step of 8 images: nchw 1.23 ms, channels_last {other:.2f} ms"
    assert (found.memory_format, found.speed_note) == (fastest, note)
    assert asked == [(["nchw", "channels_last"], device, (8, 3, 5, 5))]


def test_layers_for_which_channels_last_is_not_tried() -> None:
    grouped, few = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(3, 4, 1, 2)
    for net, on_cpu, on_gpu in (
        (nn.Linear(1, 1), "no 2-d convolutions", "no 2-d convolutions"),
        (nn.Sequential(grouped, nn.Conv2d(4, 4, 3)), "grouped convolutions", ""),
        (nn.Sequential(few, grouped), "a strided 1x1 convolution has few channels", ""),
        (nn.Conv2d(3, 4, 3), "", ""),
    ):
        assert (computing._unfit(net, CPU), computing._unfit(net, CUDA)) == (on_cpu, on_gpu)


def test_a_probe_takes_the_median_of_its_timed_steps_on_copies_that_take_turns(monkeypatch) -> None:
    seconds = [9, 9, 9, 9, 1, 7, 3, 8, 2, 5]  # of the steps, one of each candidate in turn
    clock = iter([float(now) for n, took in enumerate(seconds) for now in (10 * n, 10 * n + took)])
    monkeypatch.setattr(computing, "_now", lambda device: next(clock))
    seen = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, 1, 1))

        def forward(self, x):
            seen.append((tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last), self.training))
            return {"a": 1} and (x.sum() * self.weight.sum(), [x.mean() * self.weight.mean()])

    net = Net().eval()
    candidates = [Computing(memory_format=name) for name in ("channels_last", "nchw")]
    assert computing._milliseconds(net, candidates, CPU, (2, 3, 4, 4)) == [2000, 7000]
    assert seen == [((2, 3, 4, 4), True, True), ((2, 3, 4, 4), False, True)] * 5
    assert (net.training, net.weight.grad) == (False, None)
    assert (computing.WARM_UP, computing.TIMED) == (2, 3)
    parts = (torch.tensor([1.0, 3.0]), [torch.tensor(5.0, dtype=torch.float64)])
    assert float(computing._scalar(parts)) == 7
    waited = []
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(computing.time, "perf_counter", lambda: 5.0)
    monkeypatch.setattr(computing.time, "process_time", lambda: 6.0)
    assert (computing._now(CPU), waited, computing._now(CUDA), waited) == (6.0, waited, 5.0, [CUDA])


def switches() -> tuple:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32,
        cudnn.allow_tf32,
    )  # fmt: skip


def test_an_evaluation_within_training_leaves_what_training_has_set() -> None:
    """Without warn_only an operation that has no deterministic kernel would end the second epoch."""
    with kernels(CUDA, Computing("fp32")):
        for _ in range(2):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            with deterministic(CUDA):
                assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("start", [(False, False, True, True), (True, True, False, False)])
def test_kernels_of_a_gpu_are_set_and_put_back(start) -> None:
    """The switches can be set without a GPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = switches()
    cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32, cudnn.allow_tf32 = start
    try:
        own = (False, *start)
        for settings, inside in (
            (Computing("fp32"), (True, True, False, False, False)),
            (Computing("tf32"), (True, True, False, True, True)),
            (Computing("bf16", deterministic=False), (False, False, True, True, True)),
            (Computing("", deterministic=False), (False, False, True, *start[2:])),
        ):
            found = []
            with pytest.raises(KeyError), kernels(CUDA, settings):
                {}[found.append(switches())]
            assert (found, switches()) == ([inside], own)
            with kernels(CPU, settings):
                assert switches() == own
    finally:
        cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32, cudnn.allow_tf32 = before[1:]


def test_weights_lie_in_the_format_of_the_stage_until_its_end() -> None:
    net = nn.Conv2d(3, 4, 3)
    for memory_format, inside in (("channels_last", True), ("nchw", False)):
        own = Computing(memory_format=memory_format)
        found = []
        with pytest.raises(KeyError), laid_out(net, own.strides):
            {}[found.append(net.weight.is_contiguous(memory_format=torch.channels_last))]
        assert (found, net.weight.is_contiguous()) == ([inside], True)
    with Computing("bf16").autocast(CPU):
        assert torch.is_autocast_enabled("cpu")
    with Computing("fp32").autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_within_a_long_epoch_the_time_left_is_told(caplog, monkeypatch) -> None:
    clock = iter([100.0, 101.9, 102.0, 103.0, 105.0, 200.0])
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    within = loop._WithinEpoch(2, 5, 100)
    with caplog.at_level(logging.INFO, logger=EPOCHS):
        for count in (10, 10, 30, 25, 25):
            within.add(count)
    assert [(r.getMessage(), r.left, r.each) for r in caplog.records] == [
        ("epoch 3 of 5: 20 of 100 images", 10.0 * 3 - 2, 10.0),
        ("epoch 3 of 5: 75 of 100 images", pytest.approx(20 / 3 * 3 - 5), pytest.approx(20 / 3)),
    ]
    assert loop.PROBE_S == 2.0


def test_a_finished_epoch_is_logged_with_its_figures(caplog) -> None:
    state = TrainingState(nn.Linear(1, 1), None, None, None)
    state.epoch, state.curve = 3, [{"train_loss": 0.123456, "top1": 98.765}]
    with caplog.at_level(logging.INFO, logger=EPOCHS):
        loop._log_epoch(state, recipe(epochs=10), "top1", 2.5)
    (record,) = caplog.records
    assert record.getMessage() == "epoch 3 of 10: loss 0.1235, top1 98.77 %"
    assert (record.left, record.each) == (17.5, 2.5)


def test_batches_of_an_epoch() -> None:
    order = torch.randperm(10, generator=generator(3, 4, "shuffle"))
    found = {
        (3, False): (3, 3, 2, 2), (3, True): (3, 3, 3), (10, True): (10,), (11, True): (10,), (20, False): (10,),
        (5, False): (5, 5), (4, False): (4, 3, 3), (4, True): (4, 4), (1, True): (1,) * 10,
    }  # fmt: skip
    for (size, drop_last), sizes in found.items():
        parts = loop.batch_order(10, 3, 4, size, drop_last)
        assert tuple(map(len, parts)) == sizes
        assert torch.equal(torch.cat(parts), order[: sum(sizes)])


@pytest.mark.parametrize(
    ("names", "width", "found"),
    [((), 32, ()), (("shift",), 32, (1,)), (("crop",), 32, (4,)), (("crop", "flip", "shift"), 16, (1, 2)),
     (("crop",), 7, (1,)), (("crop",), 23, (2,)), (("flip", "resized-crop"), 64, ())],
)  # fmt: skip
def test_how_far_moves_reach(names, width, found) -> None:
    assert augment.reaches(recipe(augment=names), width) == found
    augment.check_augment(recipe(augment=names))
    with pytest.raises(UserError) as error:
        augment.check_augment(recipe(augment=(*names, "hsv")))
    assert str(error.value) == "unknown augment 'hsv'. Known: crop, flip, resized-crop, shift"


def test_sides_of_smaller_images() -> None:
    growing = recipe(epochs=9, start_scale=0.5)  # whole from the seventh epoch on
    sides = [resizing.size_at(growing, (64, 100), epoch) for epoch in range(9)]
    assert sides == [(32, 48), (40, 56), (40, 64), (48, 72), (56, 80), (56, 88), *[(64, 100)] * 3]
    assert (resizing.WHOLE_FROM, resizing.GRID) == (0.75, 8)
    cases = ((64, 0.5), (64, 0.01), (5, 0.5), (64, 1.0), (63, 0.99), (20, 0.5))
    assert [resizing._side(*one) for one in cases] == [32, 8, 5, 64, 63, 8]
    assert resizing.pixels_share(growing, (64, 100)) == sum(h * w for h, w in sides) / (9 * 6400)
    assert resizing.pixels_share(recipe(epochs=9), (64, 100)) is None
    assert resizing.pixels_share(recipe(epochs=0, start_scale=0.5), (64, 100)) is None


class Taking(nn.Module):
    """Notes what it is given; refuses images of a height below `least`."""

    def __init__(self, least: int, error: Exception) -> None:
        super().__init__()
        self.weight, self.least, self.error, self.seen = nn.Parameter(torch.ones(1)), least, error, []

    def forward(self, x):
        self.seen.append((tuple(x.shape), float(x.abs().max()), self.training, torch.is_grad_enabled()))
        if x.shape[2] < self.least:
            raise self.error


def test_a_network_that_cannot_take_small_images_is_told_before() -> None:
    for options in ({"epochs": 0, "start_scale": 0.5}, {"epochs": 4}):
        resizing.check_start(broken := Taking(99, ValueError()), recipe(**options), (3, 16, 24), "mine")
        assert broken.seen == []
    half = recipe(epochs=4, start_scale=0.5)
    for training in (True, False):
        resizing.check_start(fine := Taking(8, ValueError()).train(training), half, (3, 16, 24), "mine")
        assert (fine.seen, fine.training) == ([((1, 3, 8, 16), 0.0, False, False)], training)
    for error, why in ((ValueError(" too small\nmore"), "too small"), (KeyError(), "KeyError")):
        with pytest.raises(UserError) as caught:
            resizing.check_start(small := Taking(9, error), half, (3, 16, 24), "mine")
        assert str(caught.value) == (
            f"start_scale 0.5: mine can't take images of 8x16, which epoch 1 would have ({why}); leave start_scale out"
        )
        assert small.training


def test_a_network_that_cannot_take_a_size_on_the_way_is_told_before() -> None:
    """Sides of 32, 40, 56 and 64: a network in patches of 16 takes the first and the last."""

    class Patches(nn.Linear):
        def forward(self, x):
            assert x.shape[2] % 16 == 0, f"height {x.shape[2]} isn't divisible by 16"

    with pytest.raises(UserError, match=r"can't take images of 40x40, which epoch 2 would have \(height 40 isn't"):
        resizing.check_start(Patches(1, 1), recipe(epochs=6, start_scale=0.5), (3, 64, 64), "mine")
    resizing.check_start(Patches(1, 1), recipe(epochs=2, start_scale=0.5), (3, 64, 64), "mine")


def test_restored_values_keep_their_type_and_lie_as_their_weight() -> None:
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    values = torch.arange(108.0, dtype=torch.float64).reshape(4, 3, 3, 3)
    optimizer.state[net.weight] = {"wide": values, "count": torch.ones(()), "number": 3}
    progress._lay_out_as_weights(optimizer)
    found = optimizer.state[net.weight]
    assert (found["wide"].dtype, found["wide"].stride()) == (torch.float64, net.weight.stride())
    assert torch.equal(found["wide"], values)
    assert (found["count"].item(), found["number"]) == (1, 3)


def test_smaller_images_lie_where_the_network_is() -> None:
    """`meta` stands for any device that isn't the processor."""
    seen = []
    net = nn.Conv2d(3, 4, 3, device="meta")
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].device.type))
    resizing.check_start(net, recipe(epochs=4, start_scale=0.5), (3, 16, 16), "mine")
    assert seen == ["meta"]


def test_the_average_is_evaluated_and_put_back() -> None:
    net = nn.BatchNorm1d(2)
    average = Average(net, 0.5)
    with torch.no_grad():
        net.weight.fill_(3)
        net.num_batches_tracked.fill_(7)
    average.update()
    with average.swapped_into(net):
        assert (net.weight.tolist(), int(net.num_batches_tracked)) == ([2, 2], 7)
        with torch.no_grad():
            net.weight.fill_(9)
    assert net.weight.tolist() == [3, 3]
    assert average.weights["weight"].tolist() == [2, 2]
