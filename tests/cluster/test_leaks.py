"""A process that has run many cells gives the same numbers as a fresh one, and holds no more memory."""

from collections.abc import Callable

import pytest

from raybench.execution import worker
from raybench.execution.driver import Run, drive
from raybench.execution.isolation import resident
from raybench.execution.local import fit
from raybench.execution.worker import Assignment
from raybench.pipeline.exclusive import Machine
from raybench.plan.only import only_cell
from raybench.plan.plan import plan
from raybench.plan.records import Plan
from raybench.sweep.reader import load_sweep

from .resume import Sweep

MANY = "[random, magnitude-l1, magnitude-l2, taylor, lamp, bn-scale, magnitude-l2+group-norm]"
GROWTH = 150 << 20  # bytes; twenty cells that each kept their network and data would hold more


def run_here(sweep: Sweep, among: Callable[[Plan], Plan] = lambda whole: whole) -> None:
    """Run a sweep in this process, as an actor that is reused does."""
    spec = load_sweep(sweep.file)
    run = Run(sweep.storage, Assignment(sweep.storage.url))
    drive(run, lambda: among(plan(spec, sweep.storage)), fit)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}


@pytest.mark.timeout(250)
def test_a_cell_alone_and_after_twenty_others(tmp_path, monkeypatch):
    node = Machine(tmp_path)  # a lock of its own: timings don't wait for other tests
    monkeypatch.setattr(worker, "_machine", lambda: node)
    sweep = Sweep(tmp_path / "many", methods=MANY, epochs=1, seeds="[0, 1, 2]")
    last = plan(load_sweep(sweep.file)).cells[-1].key

    alone = Sweep(tmp_path / "alone", methods=MANY, epochs=1, seeds="[0, 1, 2]")
    run_here(alone, lambda whole: only_cell(whole, last))
    [expected] = alone.rows()
    before = resident()

    run_here(sweep)
    rows = {row["trial_id"]: row for row in sweep.rows()}
    assert len(rows) == 21
    assert max(rows, key=lambda key: sweep.executions()[key][-1]["started"]) == last, "it ran after all others"
    assert rows[last] == expected
    assert resident() - before < GROWTH
