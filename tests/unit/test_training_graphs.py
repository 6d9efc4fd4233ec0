"""Steps as CUDA graphs and compiled forwards, without a GPU: by stand-ins that compute on the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training import compiling, steps
from raybench.tasks.training.compiling import Compiling
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import make_optimizer
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import generator
from raybench.tasks.training.steps import Stepper

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def recipe(**options) -> TrainRecipe:
    return TrainRecipe(**({"epochs": 1, "lr": 0.1} | options))


class Graph:
    """A CUDA graph's stand-in: it runs on the CPU what was captured, on the same tensors."""

    made: list[Graph] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.replays, self.again = 0, None
        Graph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        self.again()


class Capture(TorchDispatchMode):
    """A capture's stand-in: like CUDA it refuses to give a tensor's value to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        return func(*args, **kwargs or {})


@pytest.fixture
def graphs(monkeypatch):
    """Stand-ins for what torch.cuda has; the list of graphs and of streams' waits."""
    Graph.made, waits = [], []

    class Stream:
        def __init__(self, name="side") -> None:
            self.name = name

        def wait_stream(self, other) -> None:
            waits.append((self.name, other.name))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream, capture_error_mode: Capture())
    monkeypatch.setattr(torch.cuda, "default_generators", [torch.Generator()])
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    own = steps._Graph.__init__

    def init(self, step, progress, mixed, stream) -> None:
        lr = [group["lr"] for group in progress.optimizer.param_groups]
        with torch.no_grad():
            state = [p.clone() for p in progress.model.parameters()]
        own(self, step, progress, mixed, stream)  # a real capture computes nothing: what it did is taken back
        with torch.no_grad():
            for p, before in zip(progress.model.parameters(), state, strict=True):
                p.copy_(before)
        assert [group["lr"] for group in progress.optimizer.param_groups] == lr

        def again() -> None:
            with self._inputs.as_rates():
                self._loss.copy_(step(progress, self._inputs.batch))

        self._graph.again = again

    monkeypatch.setattr(steps._Graph, "__init__", init)
    return Graph.made, waits


def batches() -> list[Mixed]:
    draw = generator("graphs")
    return [
        Mixed(torch.randn(4, 3, generator=draw), torch.randint(0, 2, (4,), generator=draw),
              torch.randint(0, 2, (4,), generator=draw), 0.5 + number / 100)
        for number in range(9)
    ]  # fmt: skip


def stepped(settings: Computing, made=batches, penalty=None, count: int = 9):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    options = recipe(momentum=0.0, weight_decay=0.0)
    progress = TrainingState(net, make_optimizer(net, options, CPU), None, penalty)
    stepper, losses = Stepper(options, settings, CPU, None, count), []
    for number, mixed in enumerate(made()[:count]):
        for group in progress.optimizer.param_groups:
            group["lr"] = 0.1 + number / 50
        losses.append(stepper(progress, mixed))
    return net, losses, stepper, progress


def test_steps_as_a_graph_are_the_plain_steps(graphs) -> None:
    plain, expected, _, _ = stepped(Computing())
    net, losses, stepper, progress = stepped(Computing(graphs="auto"))
    made, waits = graphs
    torch.testing.assert_close(net.state_dict(), plain.state_dict())
    torch.testing.assert_close(losses, expected)
    assert not any(loss.requires_grad for loss in losses)
    assert [graph.replays for graph in made] == [6], "three steps beside, then one graph for all"
    assert waits == [("side", "main"), ("main", "side")] * 3
    stepper.end_epoch(progress)
    assert len(stepper._graphs) == 1
    assert stepper.close() == Computing(graphs="on")
    assert stepper._graphs == {}


def test_each_shape_has_a_graph_and_a_penalty_drops_it_at_the_end_of_an_epoch(graphs) -> None:
    class Penalty:
        capturable = True

        def add_gradients(self) -> None:
            pass

    def mixed() -> list[Mixed]:
        return [one for b in batches() for one in (b, Mixed(b.images[:2], b.labels[:2], b.others[:2], b.share))]

    plain = stepped(Computing(), mixed, count=18)
    net, _, stepper, progress = stepped(Computing(graphs="auto"), mixed, Penalty(), count=18)
    torch.testing.assert_close(net.state_dict(), plain[0].state_dict())
    assert [graph.replays for graph in graphs[0]] == [6, 6]
    stepper.end_epoch(progress)
    assert stepper._graphs == {}
    Penalty.capturable = False
    *_, stepper, _ = stepped(Computing(graphs="auto"), penalty=Penalty())
    assert stepper.close() == Computing(graphs="off", speed_note="no graphs: Penalty is not capturable")


def test_few_steps_and_networks_that_no_graph_can_hold_say_so(graphs, monkeypatch) -> None:
    monkeypatch.setattr(steps, "failed_captures", [])
    *_, few, _ = stepped(Computing(graphs="auto"), count=3)
    assert few.close() == Computing(graphs="off", speed_note="no graphs: too few steps")
    for error, why in ((RuntimeError("on the host\nmore"), "on the host"), (KeyError(), "KeyError")):

        def broken(*args, error=error):
            raise error

        monkeypatch.setattr(steps._Graph, "__init__", broken)
        plain, net = stepped(Computing()), stepped(Computing(graphs="auto"))
        torch.testing.assert_close(net[0].state_dict(), plain[0].state_dict())
        assert net[2].close() == Computing(graphs="off", speed_note=f"no graphs: {why}")
    assert Stepper(recipe(), Computing(), CPU, None, 1).close() == Computing()


def test_a_graph_waits_until_compiling_is_settled(graphs, monkeypatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    *_, stepper, _ = stepped(Computing(graphs="auto", compile="auto"), lambda: [*batches(), *batches()], count=10)
    assert [graph.replays for graph in graphs[0]] == [1], "settled after eight steps, and a rehearsal"
    computed = stepper.close()
    assert (computed.compile, computed.graphs, computed.speed_note) == (
        "off",
        "on",
        "not compiled: no compiler",
    )


def test_compiling_counts_layers_with_weights_and_what_is_left(monkeypatch) -> None:
    clock = iter([10.0, 25.0])  # five steps took 15 seconds
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    net, under = (
        nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))),
        Compiling(11),
    )
    assert not under.settled
    for count in range(1, 12):
        assert under.run(net, lambda forward: forward) is net
        assert under.settled is (count > 7)
    assert under.close(Computing(compile="auto")) == Computing(
        compile="off", speed_note="not compiled: 12 s left, compiling takes up to 6 s"
    )
    assert (compiling.TIMED, compiling.WORTH, compiling.SECONDS_EACH) == (5, 5.0, 2.0)


def test_what_compiled_and_how_often_again_is_told(monkeypatch) -> None:
    counters, resets = {"stats": {"unique_graphs": 3}}, []
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(counters["stats"].copy()))
    monkeypatch.setattr(
        torch._dynamo.utils, "counters", type("C", (dict,), {"clear": lambda self: resets.append(1)})(counters)
    )
    monkeypatch.setattr(torch, "compile", lambda model: lambda images: model(images) + 1)
    net, under = nn.Identity(), Compiling(99)
    net.weight = nn.Parameter(torch.ones(1))
    found = [float(under.run(net, lambda forward: forward(torch.zeros(1)))) for _ in range(9)]
    assert found == [0.0] * 6 + [1.0] * 3
    assert len(resets) == 2
    monkeypatch.setattr(compiling.time, "perf_counter", iter([]).__next__)  # no step is timed any more
    assert under.run(net, lambda forward: forward(torch.zeros(1))) == 1
    computed = under.close(Computing(compile="auto", speed_note="x"))
    assert (computed.compile, len(resets)) == ("on", 3)
    assert computed.speed_note.startswith("x; first step compiled in 0.0 s, 2 recompilations")
    torch._dynamo.utils.counters["stats"] = {}
    assert compiling._compilations() == 1


@pytest.mark.parametrize(
    ("cxx", "there", "found"),
    [(None, "g++", True), (None, "clang++", True), (None, "", False), ("icpc", "icpc", True), ("icpc", "g++", True),
     ("icpc", "", False)],
)  # fmt: skip
def test_compilers(cxx, there, found, monkeypatch) -> None:
    monkeypatch.setenv("CXX", cxx) if cxx else monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}" if name == there else None)
    assert compiling._has_compiler(CPU) is found
    assert not compiling._has_compiler(CUDA)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}" if name == "gcc" else None)
    assert compiling._has_compiler(CUDA)


def test_steps_are_timed_until_the_device_is_done(monkeypatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    net = nn.Linear(1, 1)
    compiling._now(net)
    assert waited == []
    assert compiling._now(type("OnGpu", (), {"parameters": lambda self: iter([type("P", (), {"device": CUDA})])})()) > 0
    assert waited == [CUDA]
