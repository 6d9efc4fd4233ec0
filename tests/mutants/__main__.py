"""Plants mutants in one room of a copy of the repository and prints which survive the room's tests.

python -m tests.mutants selection --sample 100 --seed 0
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutate import Mutant, mutants, sampled
from tests.mutants.rooms import ROOMS

ROOT = Path(__file__).parents[2]
WANTED = 0.9  # share of the mutants that the tests must kill
SECONDS = 30.0  # of the processor: the tests of one mutant, fastest first, may take so long together
CALLED_IN = "MUTANTS_CALLED_IN"  # the folder that paths of the command line are relative to
COPIED = ("docs", "raybench", "sweeps", "tests", "*.md", "*.toml", "*.txt", "Makefile", "LICENSE", "cluster", ".ci")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--sample", type=int, default=100, help="how many mutants; 0: all (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument("--only", default="", help="only mutants whose name holds this text, e.g. problem.py:63")
    parser.add_argument("--again", type=_path, help="only the survivors in this output of an earlier run")
    parser.add_argument("--map", type=_path, help="keeps which test runs which line; changed files are run again")
    parser.add_argument("--copied", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    return _inside(args) if args.copied else _in_a_copy()


def _path(text: str) -> Path:
    return Path(os.environ.get(CALLED_IN, "."), text).resolve()


def _in_a_copy() -> int:
    """Run the same command in a copy of the repository, since others may edit this one meanwhile."""
    with tempfile.TemporaryDirectory(prefix="raybench-mutants-") as folder:
        copy = Path(folder) / "tree"
        for path in (path for pattern in COPIED for path in ROOT.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                copy.mkdir(exist_ok=True)
                shutil.copy(path, copy)
        shared = os.environ.get("RAYBENCH_SHARED", str(ROOT.parent / "shared"))
        env = os.environ | {"PYTHONPATH": str(copy), "RAYBENCH_SHARED": shared, "OMP_NUM_THREADS": "1"}
        env[CALLED_IN] = os.getcwd()
        command = [sys.executable, "-m", "tests.mutants", *sys.argv[1:], "--copied"]
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # each fork would compile every file anew
        return subprocess.run(command, cwd=copy, env=env).returncode


def _inside(args: argparse.Namespace) -> int:
    from tests.mutants import warm
    from tests.mutants.cover import Map

    warm.import_large(detection=any("detection" in file for file in ROOMS[args.room]))
    scratch = ROOT.parent
    known = Map.read(args.map) if args.map and args.map.exists() else Map()
    if unknown := known.unknown(ROOT, [f"tests/{file}" for file in ROOMS[args.room]]):
        known.add(warm.record(ROOT, args.room, unknown, args.jobs, scratch))
    if args.map:
        known.write(args.map)
    if known.failed:
        print("not used, since they fail without a mutant:", *known.failed, sep="\n  ")
    paths = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "raybench" / args.room).rglob("*.py"))
    every = [mutant for path in paths for mutant in mutants(ROOT, path)]
    chosen = [m for m in _drawn(args, every) if args.only in m.name]
    print(f"{args.room}: {len(chosen)} of {len(every)} mutants, {len(known.seconds)} tests, seed {args.seed}")
    work = [(mutant, known.tests(mutant.path, mutant.lines, SECONDS)) for mutant in chosen]
    outcomes = Counter[str]()
    seconds = {test: known.alone(test) for test in known.seconds}
    for mutant, outcome in warm.judge(work, seconds, args.jobs, scratch):
        outcomes[outcome] += 1
        if outcome == warm.SURVIVED:
            print(f"survived  {mutant.name}  {mutant.change}", flush=True)
    return _verdict(outcomes[warm.KILLED], outcomes[warm.TIMEOUT], len(chosen))


def _drawn(args: argparse.Namespace, every: Sequence[Mutant]) -> list[Mutant]:
    """The mutants of `--again`, or a sample."""
    if not args.again:
        return sampled(every, args.sample, args.seed)
    lines = [line for line in args.again.read_text().splitlines() if line.startswith("survived")]
    found = [_same(every, *line.split(None, 2)[1:]) for line in lines]
    if missing := found.count(None):
        print(f"{missing} of {len(lines)} survivors are no mutants any more: their lines have changed")
    return [mutant for mutant in found if mutant]


def _same(every: Sequence[Mutant], name: str, change: str) -> Mutant | None:
    """The mutant with that change nearest to where it was: lines above may have been added since."""
    path, line, column, _ = name.rsplit(":", 3)
    near = [m for m in every if (m.path, str(m.column), m.change) == (path, column, change)]
    return min(near, key=lambda mutant: abs(mutant.line - int(line)), default=None)


def _verdict(killed: int, timeouts: int, count: int) -> int:
    share = (killed + timeouts) / max(1, count)
    low, high = _interval(share, count)
    print(
        f"{killed + timeouts} of {count} killed ({timeouts} by the time limit): {share:.1%}, "
        f"95 % interval {low:.1%} to {high:.1%}"
    )
    return 0 if share >= WANTED else 1


def _interval(share: float, count: int) -> tuple[float, float]:
    """The share of all mutants, from that of a sample (Wilson)."""
    z, n = 1.96, max(1, count)
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


if __name__ == "__main__":
    sys.exit(main())
