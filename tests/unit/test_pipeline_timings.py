"""How a pruned network is measured, by clocks that are set: turns, blocks, events of a GPU, and when there are none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.pipeline import measure, trial
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import Machine
from raybench.pipeline.measure import Footprint, Pace
from raybench.storage.open import open_storage


class Task:
    """What measuring needs of a task."""

    data = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.5,), "")


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(open_storage(tmp_path / "store"), machine=Machine(tmp_path / "locks"))


def test_a_footprint_compares_copies_in_eval_mode_and_says_why_there_are_no_times(context, monkeypatch) -> None:
    dense, model, asked = nn.Linear(1, 1), nn.Linear(1, 2), []
    monkeypatch.setattr(
        measure, "peak_activations", lambda net, image: asked.append((net, image.shape)) or net.out_features
    )
    monkeypatch.setattr(measure, "medians_ms", lambda nets, images, pace: [float(len(images[0])), float(pace.repeats)])
    context.machine.timed = lambda timing: (timing(), None)
    found = measure.footprint(dense, model, Task(), context)
    assert found == Footprint(1, 2, 1.0, 30.0, None, 32.0, 5.0, None)
    assert [shape for _, shape in asked] == [(1, 1, 8, 8)] * 2
    (first, _), (second, _) = asked
    assert (first is dense, second is model, dense.training, second.training, model.training) == (
        True, False, False, False, True,
    )  # fmt: skip
    context.machine.timed = lambda timing: (None, "shared")
    assert measure.footprint(dense, model, Task(), context) == Footprint(
        1, 2, None, None, "shared", None, None, "shared"
    )


def test_passes_are_timed_in_blocks_until_they_are_enough(monkeypatch) -> None:
    took = iter([1000.0] * 2 + [1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0] + [0.0] * 9)
    monkeypatch.setattr(measure, "_milliseconds", lambda model, images: next(took))
    assert measure.medians_ms([nn.Identity(), nn.Identity()], None, Pace(1, 3, block=2)) == [2.5, 25.0]
    took = iter([600.0, 600.0, 600.0])
    assert measure.medians_ms([nn.Identity()], None, Pace(0, 9, most_s=1.2)) == [600.0]
    took = iter([600.0, 601.0, 1.0])
    assert measure.medians_ms([nn.Identity()], None, Pace(0, 9, most_s=1.2)) == [600.5]
    assert (Pace(5, 30, 5, float("inf")), Pace(1, 5, 1, 2.0)) == (measure.ONE, measure.MANY)


def test_a_pass_is_timed_by_the_clock_or_by_events_of_a_gpu(monkeypatch) -> None:
    clock = iter([5.0, 5.25])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure._milliseconds(nn.Identity(), torch.zeros(1)) == 250
    steps = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.name = f"event {len([s for s in steps if s == 'made'])}"
            steps.append("made")

        def record(self) -> None:
            steps.append(f"{self.name} recorded")

        def synchronize(self) -> None:
            steps.append(f"{self.name} waited for")

        def elapsed_time(self, end) -> float:
            return 7 if (self.name, end.name) == ("event 0", "event 1") else -1

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: steps.append(device))
    images = SimpleNamespace(device=torch.device("cuda"))
    assert measure._milliseconds(lambda found: steps.append(found is images), images) == 7.0
    assert steps == [
        "made", "made", torch.device("cuda"), "event 0 recorded", True, "event 1 recorded", "event 1 waited for",
    ]  # fmt: skip


def test_laps_are_the_seconds_since_the_lap_before(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(trial.time, "perf_counter", lambda: now[0])
    clock = trial._Clock()
    for name, seconds in (("a", 2.0), ("b", 3.5)):
        now[0] += seconds
        clock.lap(name)
    assert clock.laps == {"a": 2.0, "b": 3.5}
