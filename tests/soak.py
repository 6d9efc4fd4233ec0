"""Kills something at random every few seconds while a sweep runs on several raylets, then compares with a quiet run.

    python -m tests.soak --minutes 30 --seed 0 [--cells 300] [--nodes 2] [--kills 60] [--calm 4]

A head without CPUs, raylets with one CPU each, and one driver, all on this machine, train small cells. Every few
seconds a worker, a raylet (a new one joins) or the driver (the same command is started again) gets SIGKILL: three of
four while a stage, a network or a row is being written, or right after it appeared. --kills are spread evenly over the
units of the sweep: each waits until its share of them has ended, so that as many fall on the last cells as on the
stages. When the sweep has ended (after the minutes nothing is killed any more), a run without faults fills a second
storage, and every cell's row is compared, timings aside. Prints the figures; exit code 1 if a cell was lost, doubled or
differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from raybench.progress.journal import read_journal
from raybench.results.columns import COLUMNS, TIMINGS
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from tests.raylets import HEAD, Raylets, words_of

SWEEP = """
name: soak
datasets: digits
models: test-convnet
methods: [random, magnitude-l1, magnitude-l2, lamp, fpgm, taylor]
speedups: [1.5, 2, 2.5, 3, 4]
seeds: {seeds}
base_seeds: per-seed
recipe:
  extends: quick
  base: {{epochs: 2, warmup_epochs: 0}}
  sparsify: {{epochs: 1}}
  finetune: {{epochs: 2}}
resources: {{cpus: 1}}
"""
PER_SEED = 6 * 5
KINDS = ("worker", "worker", "worker", "raylet", "driver")  # drawn with these weights
OF_THE_RUN = {column.name for column in TIMINGS} - {"device", "device_share"} | {"provenance", "row_sha256"}
PER_SEED_UNITS = 1 + 6 + PER_SEED  # a base, a selection for each method, the cells
CELLS = "results/cells/dataset=digits/model=test-convnet"
MOMENTS = ("at any moment", "while a result is written", "while a result is written", "right after a result appeared")
WAIT_S = 20.0  # how long a kill waits for its moment


class Cluster(Raylets):
    """A head without CPUs and raylets with one each, in folders below `root`."""

    def __init__(self, root: Path, nodes: int) -> None:
        super().__init__(root)
        self.count = 0
        for _ in range(nodes):
            self.add()

    def add(self) -> None:
        """Start one more raylet."""
        self.count += 1
        self.start(f"n{self.count}")

    def found(self, what: str) -> list[psutil.Process]:
        """Processes of this cluster: its raylets with a CPU, or the workers that have imported raybench."""
        names = {"raylet": ("raylet/raylet",), "worker": ("ray::raybench_", "ray::ResourceTrainable")}[what]
        mine = [process for process in psutil.process_iter() if self.node_of(process) not in ("", HEAD)]
        return [process for process in mine if any(name in words_of(process) for name in names)]


class Driver:
    """One `raybench run` on the cluster."""

    def __init__(self, folder: Path, storage: Path, address: str) -> None:
        words = [sys.executable, "-m", "raybench", "run", str(folder / "sweep.yaml"), "--storage", str(storage)]
        self.command = [*words, "--address", address]
        self.environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        self.storage, self.output = storage, folder / f"{storage.name}.txt"
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, env=self.environment, start_new_session=True
            )


def main() -> int:
    """Soak, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--kills", type=int, default=60, help="spread evenly over the units of the sweep")
    parser.add_argument("--calm", type=float, default=4.0, help="mean seconds between a kill and the next")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    (folder / "sweep.yaml").write_text(SWEEP.format(seeds=list(range(-(-args.cells // PER_SEED)))))
    cluster = Cluster(folder / "c", args.nodes)
    try:
        kills, began = soak(folder, cluster, args), time.monotonic()
        print(f"the run without faults begins; output of the run with kills: {folder}/soaked.txt", flush=True)
        quiet = Driver(folder, folder / "quiet", cluster.address)
        code = quiet.process.wait()
        print(f"it took {time.monotonic() - began:.0f} s and ended with {code}")
        return compare(folder, kills)
    finally:
        cluster.close()


def soak(folder: Path, cluster: Cluster, args: argparse.Namespace) -> Counter[str]:
    """Run the sweep to its end while things are killed; returns how many of each kind."""
    draw, kills, storage = random.Random(args.seed), Counter[str](), LocalStorage(folder / "soaked")
    driver, began, lost = Driver(folder, folder / "soaked", cluster.address), time.monotonic(), 0
    share, rows = -(-args.cells // PER_SEED) * PER_SEED_UNITS / args.kills, list[int]()
    while True:
        time.sleep(draw.expovariate(1 / args.calm))
        if driver.process.poll() is not None:
            if driver.process.returncode == 0:
                break
            lost += 1
            print(f"the driver ended with {driver.process.returncode}: started again", flush=True)
            driver.start()
        over = time.monotonic() - began > 60 * args.minutes
        ended = {entry["key"] for entry in read_journal(storage) if entry["status"] == "ok"}
        if over or len(ended) < len(rows) * share:
            continue
        kind, moment = draw.choice(KINDS), draw.choice(MOMENTS)
        if moment := _struck(kind, moment, cluster, driver, draw):
            rows.append(len(Store(storage).statuses()))
            kills[f"{kind}, {moment}"] += 1
            print(
                f"{time.monotonic() - began:5.0f} s: killed a {kind} {moment}; {rows[-1]} cells have rows", flush=True
            )
    print(
        f"the run with kills took {time.monotonic() - began:.0f} s; {lost} drivers ended by themselves before the last"
    )
    quarters = statistics.quantiles(rows, n=4) if len(rows) > 1 else rows
    print(f"cells with rows at the kills: {rows[:1]} to {rows[-1:]}, quartiles {[round(q) for q in quarters]}")
    return kills


def _struck(kind: str, moment: str, cluster: Cluster, driver: Driver, draw: random.Random) -> str:
    """Kill one process of that kind at that moment, and start what must be there again.

    Returns the moment at which it was killed; empty if there is no such process. What is needed is found before the
    moment: it lasts some milliseconds.
    """
    there = [driver.process] if kind == "driver" else cluster.found(kind)
    if not there:
        return ""
    chosen = draw.choice(there)
    node = cluster.node_of(chosen) if kind == "raylet" else ""
    came, pid = _wait_for(moment, driver.storage, [one.pid for one in there])
    try:
        os.kill(pid if pid and kind == "worker" else chosen.pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended by itself
        return ""
    if kind == "driver":
        driver.process.wait()
        driver.start()
    if kind == "raylet":
        cluster.bury(node)
        cluster.add()
    return came


def _wait_for(moment: str, storage: Path, pids: list[int]) -> tuple[str, int]:
    """Wait for `moment`, at most WAIT_S; the moment that came, and which of `pids` made the result (0: unknown)."""
    deadline, known = time.monotonic() + WAIT_S, _results(storage)
    while moment != MOMENTS[0] and time.monotonic() < deadline:
        if moment == MOMENTS[1]:
            for path in _being_written(storage):
                return moment, next((pid for pid in pids if _has_open(pid, path)), 0)
        elif new := _results(storage) - known:
            names = sorted(os.listdir(storage / "journal" / min(new)))
            pid = int(names[-1].removesuffix(".json").rpartition("-")[2])
            return moment, pid if pid in pids else 0
        time.sleep(0.0005)
    return MOMENTS[0], 0


def _being_written(storage: Path) -> list[str]:
    """Folders (stages, networks) and rows that are written now, not leases and journals."""
    found = []
    try:
        for entry in os.scandir(storage / ".tmp"):
            if entry.is_dir() or Path(entry.path).read_bytes()[:4] == b"PAR1":
                found.append(entry.path)
    except OSError:  # it is in place already
        pass
    return found


def _has_open(pid: int, path: str) -> bool:
    """Whether the process has that file, or one in that folder, open."""
    try:
        return any(os.readlink(fd.path).startswith(path) for fd in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def _results(storage: Path) -> set[str]:
    """Keys of the units whose stage or row is there."""
    rows = (name.removesuffix(".parquet") for name in _names(storage / CELLS))
    return {key for key in (*rows, *_names(storage / "stages")) if (storage / "journal" / key).is_dir()}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def compare(folder: Path, kills: Counter[str]) -> int:
    """Print the figures; 1 if a cell was lost, doubled or differs."""
    soaked, quiet = (LocalStorage(folder / name) for name in ("soaked", "quiet"))
    rows = [_rows(storage) for storage in (soaked, quiet)]
    lost = sorted(set(rows[1]) - set(rows[0]))
    differing = [key for key, row in rows[1].items() if key in rows[0] and rows[0][key] != row]
    ended = Counter(entry["key"] for entry in read_journal(soaked) if entry["status"] == "ok")
    doubled = [key for key, count in ended.items() if count > 1]
    files = Counter(key.rpartition("/")[2] for key in soaked.list("results/cells"))
    doubled += [key for key, count in files.items() if count > 1]
    failed = [key for key, row in rows[0].items() if row["status"] == "failed"]
    print(f"cells {len(rows[1])}, units {len(ended)}, kills {sum(kills.values())}")
    for kind, count in sorted(kills.items()):
        print(f"  {kind}: {count}")
    begun = Counter(entry["status"] for entry in read_journal(soaked))
    print(f"executions in the journal: {dict(begun)} (running: killed)")
    print(f"lost {len(lost)}, doubled {len(doubled)}, differing {len(differing)}, failed {len(failed)}")
    for key in (*lost, *doubled, *differing, *failed)[:10]:
        print(f"  {key}: {rows[0].get(key, {}).get('error_message')}")
    return int(bool(lost or doubled or differing or failed))


def _rows(storage: LocalStorage) -> dict[str, dict[str, object]]:
    names = [column.name for column in COLUMNS if column.name not in OF_THE_RUN]
    return {row["trial_id"]: row for row in Store(storage).table(names).to_pylist()}


if __name__ == "__main__":
    sys.exit(main())
