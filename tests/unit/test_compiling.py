"""torch.compile in training: when it pays, and what happens where it fails, by stand-ins for the compiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raybench.errors import StageError
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training import compiling
from raybench.tasks.training.compiling import TIMED, Compiling
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.ema import Average
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import make_optimizer
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import generator, seeded
from raybench.tasks.training.steps import Stepper

CPU = torch.device("cpu")


def called(under, net, count=1):
    return under.run(net, lambda forward: forward(torch.ones(count, 2)))


@pytest.mark.parametrize(
    ("steps", "seconds_each", "compiler", "state", "note"),
    [
        (8, 1.0, True, "off", "not compiled: 0 s left"),
        (4, 0.0, True, "off", "not compiled: 4 steps left"),
        (9, 0.0, False, "off", "no compiler"),
        (9, 0.0, True, "on", "first step compiled in"),
    ],
)
def test_compiling_waits_until_it_pays(steps, seconds_each, compiler, state, note, monkeypatch):
    monkeypatch.setattr(compiling, "SECONDS_EACH", seconds_each)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/g++" if compiler else None)
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))

    class Compiled:
        def __init__(self, model):
            self.model = model

        def __call__(self, images):
            return self.model(images)

        def __len__(self):
            raise TypeError("a compiled network has no length")

    monkeypatch.setattr(torch, "compile", Compiled)
    net, under = nn.Linear(2, 2), Compiling(steps)
    for _ in range(steps):
        assert torch.equal(called(under, net), net(torch.ones(1, 2)))
    computing = under.close(Computing(compile="auto"))
    assert (computing.compile, note in computing.speed_note) == (state, True)
    assert len(resets) == (2 if state == "on" else 0)


def test_a_network_that_does_not_compile_goes_on_as_it_is(monkeypatch):
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)

    def broken(model):
        def run(images):
            raise RuntimeError("unsupported: a generator")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    net, under = nn.Linear(2, 2), Compiling(9)
    for _ in range(9):
        assert torch.equal(called(under, net), net(torch.ones(1, 2)))
    computing = under.close(Computing(compile="auto"))
    assert (computing.compile, computing.speed_note) == ("off", "not compiled: unsupported: a generator")


def test_a_network_that_does_not_compile_for_a_new_shape_goes_on_as_it_is(monkeypatch):
    """A later batch is smaller, or images grow: the compiler is asked again, in the middle of the stage."""
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))

    def half(model):
        def run(images):
            if len(images) > 1:
                raise RuntimeError("no kernel for this shape\nand a long dump")
            return model(images) + 1

        return run

    monkeypatch.setattr(torch, "compile", half)
    net, under = nn.Linear(2, 2), Compiling(99)
    sizes = [1] * (compiling.TIMED + 3) + [2, 1]
    plain = [torch.equal(called(under, net, n), net(torch.ones(n, 2))) for n in sizes]
    assert plain == [True] * (compiling.TIMED + 1) + [False] * 2 + [True] * 2
    computing = under.close(Computing(compile="auto"))
    assert computing.compile == "off"
    assert computing.speed_note.startswith("first step compiled in ")
    assert computing.speed_note.endswith(", then no longer: no kernel for this shape")
    assert len(resets) == 2, "before and after"


class Noisy(nn.Module):
    """Dropout, and statistics of batch norms: a step that is taken again must not draw or count twice."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.head = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, images):
        return self.head(self.drop(self.norm(images)))


class Watching:
    """Of a regularizer what a stepper calls, in the order of the calls."""

    capturable = False

    def __init__(self):
        self.calls = 0

    def add_gradients(self):
        self.calls += 1


class InBackward(torch.autograd.Function):
    """A compiled network whose backward pass is compiled lazily, and fails."""

    @staticmethod
    def forward(ctx, outputs, error):
        ctx.error = error
        return outputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ctx.error


def broken_from(call, where, error):
    """A stand-in for torch.compile: the network itself, but from the `call`-th call on it fails forward or backward."""

    def compile_(model):
        count = 0

        def run(images):
            nonlocal count
            count += 1
            outputs = model(images)
            if count < call:
                return outputs
            if where == "forward":
                raise error  # after a first part has run, as where a network is compiled in several graphs
            return InBackward.apply(outputs, error)

        return run

    return compile_


def stepped(computing, steps=TIMED + 6):
    torch.manual_seed(0)
    net, recipe = Noisy().train(), TrainRecipe(epochs=1, lr=0.1, ema=0.5, clip_grad=1.0)
    progress = TrainingState(net, make_optimizer(net, recipe, CPU), Average(net, 0.5), Watching())
    stepper = Stepper(recipe, computing, CPU, None, 99)
    draw = generator("compiled")
    with seeded(CPU, "steps"):
        for _ in range(steps):
            labels = torch.randint(0, 3, (4,), generator=draw)
            stepper(progress, Mixed(torch.randn(4, 6, generator=draw), labels, labels))
        drawn = torch.rand(1)
    values = [*net.state_dict().values(), *progress.average.weights.values(), drawn]
    return values, progress.regularizer.calls, stepper


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_step_whose_compilation_fails_is_taken_again_with_the_same_numbers(where, call, monkeypatch):
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    monkeypatch.setattr(torch, "compile", broken_from(call, where, RuntimeError("disk full\nand a dump")))
    plain, steps, _ = stepped(Computing())
    found, again, stepper = stepped(Computing(compile="auto"))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert steps == again == TIMED + 6
    used = stepper.close()
    assert used.compile == "off"
    assert used.speed_note.startswith("not compiled: " if call == 1 else "first step compiled in ")
    assert used.speed_note.endswith("disk full")


@pytest.mark.parametrize(("holder", "name"), [(torch, "compile"), (torch._dynamo, "reset")])
def test_a_compiler_that_cannot_start_leaves_the_network_plain(holder, name, monkeypatch):
    """torch makes its cache's folder while it is imported; a wrong TORCHINDUCTOR_CACHE_DIR shows there."""

    def broken(*_):
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    monkeypatch.setattr(holder, name, broken)
    plain, *_ = stepped(Computing())
    found, _, stepper = stepped(Computing(compile="auto"))
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    used = stepper.close()
    assert used.compile == "off"
    assert used.speed_note.startswith("not compiled: [Errno 13] Permission denied")


@pytest.mark.parametrize("behind", [False, True])
def test_a_time_limit_in_the_middle_of_compiling_ends_the_stage(behind, monkeypatch):
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    late = StageError("base", "took longer than 5 s")
    error = late
    if behind:
        error = RuntimeError("the compiler's own words")
        error.__cause__ = late
    monkeypatch.setattr(torch, "compile", broken_from(1, "forward", error))
    with pytest.raises(StageError, match="took longer"):
        stepped(Computing(compile="auto"))


def test_what_was_handled_before_is_no_reason_to_end(monkeypatch):
    monkeypatch.setattr(compiling, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    monkeypatch.setattr(torch, "compile", broken_from(1, "forward", RuntimeError("a compiler's")))
    try:
        raise StageError("base", "another stage's")
    except StageError:
        *_, stepper = stepped(Computing(compile="auto"))
    assert stepper.close().speed_note == "not compiled: a compiler's"


def test_random_numbers_of_a_card_are_put_back_too(monkeypatch):
    state = {"card": torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state["card"].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: state.update(card=value))
    before = compiling._Before(Noisy(), torch.device("cuda"))
    state["card"] = torch.tensor([2], dtype=torch.uint8)
    before.restore()
    assert state["card"].tolist() == [1]
