"""What a cell costs beyond its own work: a sweep of cells that compute nothing, beside bare Ray tasks and Ray Tune.

    python -m tests.benchmarks.bench_overhead [CELLS ...] [--sleep 0] [--tune 20]

For each number of cells: seconds of the plan, of the run, and of a rerun that finds everything done; milliseconds a
cell above a bare Ray task (both with all CPUs of this machine); milliseconds of processor time a cell, of the workers
and of the driver, which other work on the machine changes less; busy share of the workers; peak memory of the driver;
files left. The plan, leases, journals, rows and Ray Tune are those of ``raybench run``; only the stages are replaced.
`--tune N` runs N trials of plain Ray Tune, one fresh actor each, for comparison.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

from raybench.execution.cluster import connected
from raybench.execution.driver import Run, Watcher, drive
from raybench.execution.worker import Assignment
from raybench.plan.plan import plan_trials
from raybench.plan.records import Plan
from raybench.progress.journal import read_journal
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve

SWEEP = """
name: overhead
models: [test-convnet]
datasets: [digits]
methods: [magnitude-l1]
speedups: [{speedups}]
seeds: [{seeds}]
recipe: quick
resources: {{cpus: 1}}
"""
SPEEDUPS = 20


def main() -> None:
    """Print one row for each number of cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", type=int, default=[1000, 5000])
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds that each cell sleeps")
    parser.add_argument("--tune", type=int, default=0, help="trials of plain Ray Tune with fresh actors")
    args = parser.parse_args()
    with connected(None):  # sets how Ray authenticates, before ray is imported
        bare = bare_task_s(3000)
        print(f"bare Ray task: {1000 * bare:.2f} ms")
        if args.tune:
            print(f"plain Ray Tune, fresh actors: {1000 * plain_tune_s(args.tune):.0f} ms a trial ({args.tune} trials)")
        print(f"{'cells':>6} {'plan s':>7} {'run s':>7} {'ms/cell over bare':>18} {'CPU ms: worker':>14} {'driver':>7}"
              f" {'busy':>5} {'rerun s':>8} {'MiB':>6} {'files':>6}")  # fmt: skip
        for cells in args.cells:
            print(row(cells, args.sleep, bare), flush=True)


def row(cells: int, sleep_s: float, bare_s: float) -> str:
    """Run `cells` cells and describe the run in one line."""
    from ray import cloudpickle

    from raybench.execution.tune import executor
    from tests.benchmarks import noop_cells

    cloudpickle.register_pickle_by_value(noop_cells)
    with tempfile.TemporaryDirectory(prefix="raybench-overhead-") as folder:
        file = Path(folder, "sweep.yaml")
        speedups = ", ".join(str(1.5 + n / 10) for n in range(SPEEDUPS))
        file.write_text(SWEEP.format(speedups=speedups, seeds=", ".join(map(str, range(cells // SPEEDUPS)))))
        storage = open_storage(f"{folder}/results")
        sweep = load_sweep(file)

        def make_plan() -> Plan:
            return plan_trials(resolve(sweep), sweep.resources, storage)

        plan_s = seconds(make_plan)
        trainable = type("NoOp", (noop_cells.NoOpTrial,), {"sleep_s": sleep_s})
        run = Run(storage, Assignment(storage.url), Watcher(), sweep=sweep.name)
        before = time.process_time()
        run_s = seconds(lambda: drive(run, make_plan, executor(sweep.resources, None, trainable)))
        driver_ms = 1000 * (time.process_time() - before) / cells
        assert sum(outcome.status == "ok" for outcome in run.outcomes.values()) >= cells, next(
            o for o in run.outcomes.values() if o.status != "ok"
        )
        entries = [entry for entry in read_journal(storage) if entry["kind"] == "cell"]
        workers = len({entry["pid"] for entry in entries})
        begun, ended = min(e["started"] for e in entries), max(e["started"] + e["seconds"] for e in entries)
        busy = sum(e["seconds"] for e in entries) / (ended - begun) / (os.cpu_count() or 1)
        worker_ms = 1000 * statistics.mean(o.summary["cpu_s"] for o in run.outcomes.values() if o.kind == "cell")
        rerun_s = seconds(make_plan)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        files = sum(len(names) for _, _, names in os.walk(folder))
        above = 1000 * ((ended - begun - cells * sleep_s / workers) / cells - bare_s)
    return (
        f"{cells:6} {plan_s:7.1f} {run_s:7.1f} {above:18.1f} {worker_ms:14.1f} {driver_ms:7.1f} {busy:5.0%}"
        f" {rerun_s:8.1f} {memory:6} {files:6}   {workers} workers"
    )


def bare_task_s(number: int) -> float:
    """Seconds of one Ray task that does nothing, from `number` of them on all CPUs."""
    import ray

    empty = ray.remote(num_cpus=1)(lambda: None)
    ray.get([empty.remote() for _ in range(100)])
    return seconds(lambda: ray.get([empty.remote() for _ in range(number)])) / number


def plain_tune_s(trials: int) -> float:
    """Seconds of one trial of plain Ray Tune, as its documentation writes it."""
    from ray import tune

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            lambda config: {"score": config["x"]},
            param_space={"x": tune.grid_search(list(range(trials)))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        return seconds(tuner.fit) / trials


def seconds(work: object) -> float:
    """How long calling `work` takes."""
    assert callable(work)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
