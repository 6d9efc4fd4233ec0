"""Ray's memory monitor really kills processes during a sweep: their cells are rows that say so, the others end."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from ray import cloudpickle

from raybench.execution.driver import Run, drive
from raybench.execution.tune import executor
from raybench.execution.worker import Assignment
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from raybench.sweep.resources import Resources

from . import fake_worker, greedy_worker
from .fakes import plan, trial, two_bases
from .test_driver import Notes

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
ROOM = 2 << 30  # bytes that all processes may take beyond what is in use at the start, Ray's own among them
BEYOND = 1 << 30  # the greedy cell would go on for so many bytes after that
for module in (fake_worker, greedy_worker):
    cloudpickle.register_pickle_by_value(module)


@pytest.fixture
def left(monkeypatch):
    """Bytes that are free when Ray's monitor kills the last process that started: ROOM below what is free now."""
    from raybench.execution.cluster import connected

    total, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), greedy_worker.available()
    if free < ROOM + 3 * BEYOND:
        pytest.skip(f"needs {(ROOM + 3 * BEYOND) >> 30} GiB of free memory")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{1 - (free - ROOM) / total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with connected(None, cpus=2):
        yield free - ROOM


@pytest.mark.filterwarnings("ignore:.*no name that raybench writes")  # what the worker leaves in place of rows
def test_a_cell_that_takes_too_much_is_a_row_and_the_others_end_well(tmp_path, left):
    one, whole = trial(), two_bases(cells=6)
    taking = one.importance.model_copy(update={"params": {"leave": left - BEYOND}})
    greedy = one.model_copy(update={"importance": taking})
    whole = plan(*(replace(u, trials=(greedy,)) if u.key == "cell-b-3" else u for u in whole.units))
    storage = LocalStorage(tmp_path)
    run = Run(storage, Assignment(storage.url), Notes(), resources=Resources(cpus=1))

    def missing():
        done = {key for key, outcome in run.outcomes.items() if outcome.status == "ok"}
        return plan(*(u for u in whole.units if u.key not in done))

    drive(run, missing, executor(run.resources, None, greedy_worker.GreedyTrial))
    assert run.outcomes.keys() == {unit.key for unit in whole.units}
    failed = {key for key, outcome in run.outcomes.items() if outcome.status != "ok"}
    assert "cell-b-3" in failed
    assert any(text.startswith("cell cell-b-3") and "starting it again, alone" in text for text in run.watcher.said)
    table = Store(storage).table(["trial_id", "status", "error_type", "error_message", "share_note"])
    for row in table.to_pylist():  # where other programs take memory meanwhile, the monitor ends innocent cells, too
        assert (row["status"], row["error_type"]) == ("failed", "OutOfMemory")
        assert re.match(r"Ray's memory monitor ended .* ran out: [\d.]+ of [\d.]+ GB were in use", row["error_message"])
        assert row["share_note"] == "memory ran out, started again alone"
    ended = {key.split("/")[1] for key in storage.list("ends")}
    assert ended == run.outcomes.keys() - failed
