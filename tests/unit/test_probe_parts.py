"""The probe of `gpus: auto` piece by piece: what a copy receives and answers, processes side by side, and the table."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from raybench import registry
from raybench.pipeline import probe, probe_copy, side_by_side
from raybench.pipeline.context import StageContext
from raybench.pipeline.probe_copy import MARK, NoMemory
from raybench.pipeline.side_by_side import SideBySide
from raybench.plan.records import Unit
from raybench.plan.share import Copies, Share, read_share
from raybench.plan.shares import largest_stage
from raybench.storage.local import LocalStorage
from raybench.sweep.trial import Weights
from tests.unit.result_rows import RECIPE, trial

CPU = torch.device("cpu")


def context_in(folder: Path, **fields) -> StageContext:
    return StageContext(LocalStorage(folder), **fields)


# What a copy does: the process reads a task, warms up, waits for "go" and answers.


class Steps:
    """Training steps that take a second each, by a clock that only they move."""

    def __init__(self, monkeypatch, seconds: float = 1.0) -> None:
        self.taken, self._now, self._seconds = 0, 100.0, seconds
        monkeypatch.setattr(probe_copy.time, "perf_counter", lambda: self._now)

    def __iter__(self):
        return self

    def __next__(self) -> int:
        self.taken += 1
        self._now += self._seconds
        return self.taken


def main_with(monkeypatch, capsys, *lines: str) -> list[str]:
    """What the process prints when it reads `lines`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    probe_copy.main()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("seconds", "measured"), [(1.0, 5), (0.5, 10), (2.0, 3), (9.0, 3)])
def test_a_copy_measures_five_seconds_and_three_steps_at_least(monkeypatch, capsys, seconds, measured) -> None:
    steps, threads, asked = Steps(monkeypatch, seconds), [], []
    monkeypatch.setattr(probe_copy, "_steps", lambda task, device: asked.append((task, device)) or steps)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(probe_copy.resource, "getrusage", lambda whose: SimpleNamespace(ru_maxrss=3 * 1024))
    task = {"device": "cpu", "threads": 3, "share": 0.5}
    found = main_with(monkeypatch, capsys, json.dumps(task), "go")
    assert found == ["raybench-probe ready", f'raybench-probe {{"memory_mb": 3.0, "step_s": {seconds}}}']
    assert (steps.taken, threads, asked) == (3 + measured, [3], [(task, CPU)])


def test_a_copy_waits_for_its_go_after_warming_up(monkeypatch, capsys) -> None:
    steps = Steps(monkeypatch)
    monkeypatch.setattr(probe_copy, "_steps", lambda *args: steps)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    read = []

    class Input(io.StringIO):
        def readline(self, *args):
            read.append(steps.taken)
            return super().readline(*args)

    monkeypatch.setattr(sys, "stdin", Input('{"device": "cpu", "threads": 1}\ngo\n'))
    probe_copy.main()
    assert read == [0, 3]


@pytest.mark.parametrize(("name", "index"), [("cuda:1", 1), ("cuda", 0)])
def test_a_copy_on_a_gpu_keeps_to_its_share_and_waits_for_its_steps(name, index, monkeypatch, capsys) -> None:
    steps, device, called = Steps(monkeypatch), torch.device(name), []
    monkeypatch.setattr(probe_copy, "_steps", lambda *args: steps)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "set_per_process_memory_fraction", lambda *args: called.append(args))
    monkeypatch.setattr(cuda, "synchronize", lambda of: called.append((of, steps.taken)))
    monkeypatch.setattr(cuda, "max_memory_reserved", lambda of: 5 * 2**20 if of == device else 0)
    found = main_with(monkeypatch, capsys, json.dumps({"device": name, "threads": 1, "share": 0.25}), "go")
    assert found[1] == 'raybench-probe {"memory_mb": 5.0, "step_s": 1.0}'
    assert called == [(0.25, index), (device, 3), *((device, n) for n in range(4, 9))]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "no memory"),
        (MemoryError(), "no memory"),
        (ValueError("\n a shape\nand more"), "error ValueError: a shape"),
        (KeyError("x"), "error KeyError: 'x'"),
    ],
)
def test_a_copy_says_why_it_ended(monkeypatch, capsys, error, line) -> None:
    def fail(task):
        raise error

    monkeypatch.setattr(probe_copy, "_measure", fail)
    assert main_with(monkeypatch, capsys, "{}") == [f"raybench-probe {line}"]


def test_a_copy_trains_the_trial_that_it_was_given(monkeypatch, tmp_path) -> None:
    opened, built, trained, added = [], [], [], []
    data = SimpleNamespace(training_steps=lambda *args: trained.append(args) or "steps")
    monkeypatch.setattr("raybench.tasks.open.open_task", lambda *args: opened.append(args) or data)
    monkeypatch.setattr("raybench.pipeline.network.fresh_model", lambda *args: built.append(args) or "net")
    monkeypatch.setattr("raybench.sweep.modules.reach_current_folder", lambda: added.append("here"))
    monkeypatch.setattr(registry, "add_plugin", added.append)
    large = RECIPE.finetune.model_copy(update={"batch_size": 512})
    one = trial(
        weights=Weights(kind="file", identity="i", path="/w.pt"), recipe=RECIPE.model_copy(update={"finetune": large})
    )
    task = {
        "trial": one.model_dump(mode="json"), "weights": "/w.pt", "plugins": ["/a.py", "/b.py"],
        "data_roots": {"digits": "/d"},
    }  # fmt: skip
    assert "path" not in task["trial"]["weights"]
    assert probe_copy._steps(task, CPU) == "steps"
    (found, roots, device), (same, *rest) = opened[0], built[0]
    assert (found, found.weights.path, found.trial_id) == (one, "/w.pt", one.trial_id)
    assert (roots, device, same, rest) == ({"digits": Path("/d")}, CPU, one, [data, CPU])
    assert trained == [("net", large)]
    assert added == [Path("/a.py"), Path("/b.py"), "here"]


# Processes side by side.


class Process:
    """A copy that answers with given lines."""

    def __init__(self, *lines: str, broken: bool = False) -> None:
        self.stdout, self.stdin, self.done = iter([f"{line}\n" for line in lines]), self, []
        self._broken = broken

    def write(self, text: str) -> None:
        if self._broken:
            raise BrokenPipeError
        self.done.append(text)

    def flush(self) -> None:
        self.done.append("flush")

    def kill(self) -> None:
        self.done.append("kill")

    def communicate(self) -> None:
        self.done.append("communicate")


CLOCKS = []


class Clock:
    """A timer that never rings."""

    def __init__(self, seconds, call, args) -> None:
        self.seconds, self.call, self.args, self.done = seconds, call, args, []
        CLOCKS.append(self)

    def start(self) -> None:
        self.done.append(("start", self.daemon))

    def cancel(self) -> None:
        self.done.append("cancel")


@pytest.fixture
def started(monkeypatch):
    """Sets the processes that `_start` gives one by one; returns the tasks that they are given."""

    def start(*processes: Process) -> list[str]:
        left, tasks = iter(processes), []
        monkeypatch.setattr(side_by_side, "_start", lambda task: tasks.append(task) or next(left))
        return tasks

    monkeypatch.setattr(side_by_side.threading, "Timer", Clock)
    CLOCKS.clear()
    return start


def answers(memory_mb: float, step_s: float) -> tuple[str, str]:
    return f"{MARK}ready", MARK + json.dumps({"memory_mb": memory_mb, "step_s": step_s})


def test_copies_go_together_and_the_largest_counts(started, tmp_path) -> None:
    copies = [Process("a library", *answers(10.0, 0.5)), Process(*answers(30.0, 0.25)), Process(*answers(20.0, 1.5))]
    tasks = started(*copies)
    side = SideBySide(trial(), context_in(tmp_path))
    assert side.beside(3) == (30.0, 0.75)
    assert all(copy.done == ["go\n", "flush", "kill", "communicate"] for copy in copies)
    assert tasks == [side._task(3)] * 3
    (clock,) = CLOCKS
    assert (clock.seconds, clock.args, clock.done) == (900.0, (copies,), [("start", True), "cancel"])
    clock.call(*clock.args)
    assert [copy.done[-1] for copy in copies] == ["kill"] * 3


def test_none_goes_before_all_are_ready_and_none_is_left(started, tmp_path) -> None:
    copies = [Process(*answers(1.0, 1.0)), Process(f"{MARK}no memory")]
    started(*copies)
    with pytest.raises(NoMemory):
        SideBySide(trial(), context_in(tmp_path)).beside(2)
    assert [copy.done for copy in copies] == [["kill", "communicate"]] * 2
    assert CLOCKS[0].done[-1] == "cancel"


@pytest.mark.parametrize(
    ("lines", "expected", "found"),
    [
        (["noise", f"{MARK}ready"], "ready", ""),
        (["noise raybench-probe ready", f"{MARK}x", f"{MARK}ready  "], "ready", ""),
        ([f"{MARK}{{}} "], "", "{}"),
        ([f"{MARK}no memory"], "", NoMemory()),
        ([f"{MARK}no memory"], "ready", NoMemory()),
        ([f"{MARK}error KeyError: 'x'"], "ready", RuntimeError("KeyError: 'x'")),
        (["noise"], "", RuntimeError("a copy ended without an answer, or took longer than 900 s")),
    ],
)
def test_answers_are_the_marked_lines(lines, expected, found) -> None:
    if isinstance(found, str):
        assert side_by_side._answer(Process(*lines), expected) == found
        return
    with pytest.raises(type(found)) as caught:
        side_by_side._answer(Process(*lines), expected)
    assert str(caught.value) == str(found)


def test_a_process_is_started_with_its_task(monkeypatch) -> None:
    process, called = Process(), []
    monkeypatch.setattr(
        side_by_side.subprocess, "Popen", lambda *args, **named: called.append((args, named)) or process
    )
    assert side_by_side._start("task") is process
    pipe, nothing = side_by_side.subprocess.PIPE, side_by_side.subprocess.DEVNULL
    assert called == [
        (([sys.executable, "-m", "raybench.pipeline.probe_copy"],),
         {"text": True, "stdin": pipe, "stdout": pipe, "stderr": nothing}),
    ]  # fmt: skip
    assert process.done == ["task\n", "flush"]
    side_by_side._tell(Process(broken=True), "go")  # it has ended, which its missing answer will say


def test_a_task_says_everything_that_a_copy_needs(tmp_path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from torch import nn\nfrom raybench.registry import model\n\n\n"
        "@model('mine', norm='batch', attention=False, task='classification')\n"
        "def mine(num_classes, in_channels, image_size):\n    return nn.Flatten()\n"
    )
    registry.add_plugin(plugin)
    weights = Weights(kind="file", identity="i", path="/w.pt")
    context = context_in(tmp_path, cpus=2.5, data_roots={"digits": Path("/d")})
    one = trial(model="mine", weights=weights)
    assert json.loads(SideBySide(one, context)._task(4)) == {
        "trial": json.loads(json.dumps(one.model_dump(mode="json"))), "weights": "/w.pt", "device": "cpu",
        "threads": 2, "share": 0.25, "data_roots": {"digits": "/d"}, "plugins": [str(plugin)],
    }  # fmt: skip
    plain = json.loads(SideBySide(trial(), context_in(tmp_path, cpus=0.5))._task(1))
    assert (plain["weights"], plain["threads"], plain["share"], plain["plugins"]) == (None, 1, 1.0, [])
    other = json.loads(SideBySide(trial(model="timm:resnet18"), context)._task(1))
    assert other["plugins"] == []


def test_the_device_has_its_name_and_memory(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1024}.get)
    side = SideBySide(trial(), context_in(tmp_path))
    assert (side.name, side.total_mb) == ("cpu", 4.0)
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", {device: "a GPU"}.get)
    monkeypatch.setattr(torch.cuda, "mem_get_info", {device: (1, 3 * 2**20)}.get)
    side = SideBySide(trial(), context_in(tmp_path, device=device))
    assert (side.name, side.total_mb) == ("a GPU", 3.0)


# The table.


class Device:
    """Notes what it is asked for; two copies fill it."""

    name, total_mb = "a device", 64.0

    def __init__(self) -> None:
        self.asked = []

    def beside(self, copies: int) -> tuple[float, float]:
        self.asked.append(copies)
        if copies > 2:
            raise NoMemory
        return 10.0 * copies, 0.5


@pytest.mark.parametrize(
    ("most", "asked", "why"),
    [
        (64, [1, 2, 4], "no memory for 4"), (4, [1, 2, 4], "no memory for 4"), (3, [1, 2], "its cores hold 3"),
        (2, [1, 2], "its cores hold 2"), (1, [1], "its cores hold 1"),
    ],
)  # fmt: skip
def test_the_whole_table(most, asked, why) -> None:
    device, rates = Device(), {1: 3600 / (20 * 0.5), 2: 2 * 3600 / (20 * 0.5)}
    measured = tuple(Copies(n, 10.0 * n, 0.5, rates[n]) for n in asked if n <= 2)
    expected = Share("digits", "cifar-resnet20", "a device", 64.0, measured, why)
    assert probe.measured(trial(), device, steps=20, most=most) == expected
    assert device.asked == asked


def test_a_device_that_holds_all_has_no_reason() -> None:
    device = SimpleNamespace(name="d", total_mb=1.0, beside=lambda copies: (1.0, 1.0))
    found = probe.measured(trial(), device, steps=1, most=8)
    assert ([one.copies for one in found.measured], found.why) == ([1, 2, 4, 8], "")


@pytest.mark.parametrize(("epochs", "steps"), [(2, 2 * 11), (0, 11), (1, 11)])
def test_a_probe_measures_the_largest_stage_on_the_contexts_device(monkeypatch, tmp_path, epochs, steps) -> None:
    stage = RECIPE.finetune.model_copy(update={"epochs": epochs})
    one = trial(recipe=RECIPE.model_copy(update={"finetune": stage}))
    assert largest_stage(one) == stage
    context = context_in(tmp_path, cpus=2.0, data_roots={"digits": tmp_path})
    calls, said = [], []
    task = SimpleNamespace(training_steps=None, training_images=10 * 128 + 1)
    share = Share("digits", "m", "d", 1.0, (Copies(2, 1.0, 1.0, 1.0),))
    monkeypatch.setattr(probe, "open_task", lambda *args: calls.append(args) or task)
    monkeypatch.setattr(probe, "usable_cores", lambda: 7)
    monkeypatch.setattr(probe, "SideBySide", lambda *args: ("side", *args))
    monkeypatch.setattr(probe, "measured", lambda *args: calls.append(args) or share)
    unit = Unit("k", "probe", (one, trial(seed=5)))
    assert probe.run_probe(unit, context, said.append, None) == {"copies": 2}
    assert probe.run_probe(unit, context, said.append, None, lambda *args: ("own", *args)) == {"copies": 2}
    opened = (one, context.data_roots, CPU, context.storage)
    assert calls == [
        opened, (one, ("side", one, context), steps, 3), opened, (one, ("own", one, context), steps, 3),
    ]  # fmt: skip
    assert said == ["probe"] * 2
    assert read_share(context.storage, "k") == share
    monkeypatch.setattr(probe, "usable_cores", lambda: 1)
    probe.run_probe(unit, context, said.append, None)
    assert calls[-1][-1] == 1


def test_a_task_without_steps_has_a_whole_device(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(probe, "open_task", lambda *args: object())
    context, one = context_in(tmp_path), trial(task="detection")
    assert probe.run_probe(Unit("k", "probe", (one,)), context, lambda stage: None, None) == {"copies": 1}
    assert read_share(context.storage, "k") == Share(
        "digits", "cifar-resnet20", "", 0.0, (), "there is no probe for detection"
    )
