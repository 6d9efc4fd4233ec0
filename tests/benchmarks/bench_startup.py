"""How long the command line takes to answer: help, plan, leaderboard, show, and a typing mistake in every verb.

python -m tests.benchmarks.bench_startup [--repeats 5]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from raybench.cli.main import VERBS
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import row, trial

LIMITS = {"help": 0.1, "answer": 0.6, "mistake": 1.0}  # seconds
METHODS = ("random", "magnitude-l1", "magnitude-l2", "lamp", "fpgm", "taylor", "bn-scale")
MISTAKES = {  # verb -> arguments with a mistake that only the verb itself can find; others get an unknown option
    "run": ["quikstart"],
    "plan": ["quikstart"],
    "validate": ["missing.yaml"],
    "inspect": ["resnet81"],
    "prune": ["--model", "resnet81", "--speedup", "2"],
    "export": ["ffffffff", "--results", "STORE"],
    "leaderboard": ["STORE", "--speedup", "3"],
    "show": ["ffffffff", "--results", "STORE"],
    "query": ["missing", "SELECT 1"],
    "compare": ["missing"],
    "merge": ["there", "missing"],
    "compact": ["missing"],
    "gc": ["missing"],
    "watch": ["missing", "--once"],
    "submit": ["missing.yaml", "--address", "head:8265"],
    "new-method": ["My Method"],
    "recipes": ["quik"],
    "data": ["get", "cifar11"],
}


def filled(folder: Path) -> str:
    """A store with 56 finished cells; returns the id of one."""
    store = Store(open_storage(folder))
    trials = [trial(name, seed=seed, speedup=speed) for name in METHODS for seed in range(4) for speed in (2.0, 4.0)]
    for one in trials:
        store.publish(row(one))
    return trials[0].trial_id


def commands(store: Path, trial_id: str) -> Iterator[tuple[str, Sequence[str]]]:
    """(kind, arguments) of every command that is timed."""
    yield "help", ["--help"]
    yield "answer", ["plan", "quickstart"]
    yield "answer", ["leaderboard", str(store)]
    yield "answer", ["leaderboard", str(store), "--wide"]
    yield "answer", ["show", trial_id, "--results", str(store)]
    for verb in VERBS:
        yield "mistake", [verb, "--no-such-option"]
        if verb in MISTAKES:
            yield "mistake", [verb, *(str(store) if word == "STORE" else word for word in MISTAKES[verb])]


def seconds(arguments: Sequence[str], repeats: int, folder: Path) -> tuple[float, float, int]:
    """(the shortest wall time of `repeats` runs, the least CPU time, exit code)."""
    walls, cpus, code = [], [], 0
    for _ in range(repeats):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "raybench", *arguments], cwd=folder, capture_output=True)
        walls.append(time.perf_counter() - began)
        after, code = resource.getrusage(resource.RUSAGE_CHILDREN), done.returncode
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls), min(cpus), code


def main() -> int:
    """Print the table. Returns 1 when a command takes more CPU time than its limit: other load hardly changes that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    slow = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial_id = filled(folder / "store")
        print("| command | CPU s | wall s | limit |\n|---|--:|--:|--:|")
        for kind, arguments in commands(folder / "store", trial_id):
            wall, cpu, code = seconds(arguments, repeats, folder)
            typed = " ".join(Path(word).name if word.startswith("/") else word for word in arguments)
            if (kind == "mistake") != (code == 2):
                raise SystemExit(f"{typed}: ended with {code}")
            slow += cpu > LIMITS[kind]
            mark = " **over**" if cpu > LIMITS[kind] else ""
            print(f"| `{typed}` | {cpu:.2f}{mark} | {wall:.2f} | {LIMITS[kind]:g} |", flush=True)
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
