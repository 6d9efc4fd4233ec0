"""How long ``raybench plan`` takes for large grids, from the command line on: seconds, CPU seconds and memory.

python -m tests.benchmarks.bench_plan [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = ["random", "magnitude-l1", "magnitude-l2", "lamp", "fpgm", "taylor", "bn-scale", "hrank",
           "magnitude-l2+group-norm", "taylor+group-norm"]  # fmt: skip
MODELS = ["cifar-resnet20", "cifar-resnet32", "cifar-resnet44", "cifar-resnet56", "cifar-resnet110", "cifar-resnet18",
          "cifar-resnet50", "cifar-vgg16-bn", "cifar-vgg19-bn", "vit-nano"]  # fmt: skip
GRIDS: dict[str, dict[str, Any]] = {  # of 100,000 cells each
    "wide": {
        "models": MODELS,
        "methods": METHODS,
        "strategies": ["protected-global", "global"],
        "speedups": [1.5 + 0.25 * step for step in range(20)],
        "seeds": list(range(25)),
    },
    "many seeds": {
        "models": MODELS[:2],
        "methods": METHODS[:4] + METHODS[-1:],
        "strategies": ["protected-global"],
        "speedups": [2, 4],
        "seeds": list(range(5000)),
    },
    "own bases": {  # every seed has its own, most methods have a stage of their own, one seed in 100 is excluded
        "models": MODELS[:1],
        "methods": ["magnitude-l2", "taylor", "magnitude-l2+group-norm", "taylor+group-norm", "bn-scale+bn-scale"],
        "strategies": ["global"],
        "speedups": [2, 4],
        "targets": {"params": [2, 4]},
        "seeds": list(range(5051)),
        "base_seeds": "per-seed",
        "exclude": [{"seeds": list(range(0, 5051, 100))}],
    },
}


def planned(sweep: Path) -> tuple[float, float, float, str]:
    """(seconds, CPU seconds, MiB at most, first line) of one ``raybench plan``."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "raybench", "plan", str(sweep)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read().decode().partition("\n")[0]
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"raybench plan {sweep}: exit code {process.returncode}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, first


def main() -> None:
    """Print one line per grid: the fastest of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        for name, axes in GRIDS.items():
            sweep = Path(folder, f"{name.replace(' ', '-')}.json")
            sweep.write_text(json.dumps({"name": "plan", "datasets": "digits", "recipe": "quick", **axes}))
            seconds, cpu, memory, first = min(planned(sweep) for _ in range(repeats))
            print(f"{name:<12} {seconds:6.2f} s {cpu:6.2f} CPU s {memory:6.0f} MiB  {first}", flush=True)


if __name__ == "__main__":
    main()
