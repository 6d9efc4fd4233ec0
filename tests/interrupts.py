"""Interrupts `raybench run` at random moments and says how each one ended.

    python -m tests.interrupts [--times 50] [--seed 0] [--most 12] [--local] [--new-storage]

Each turn starts the command anew, sends SIGINT after a random time, and expects the end within 20 s: exit code 130,
one sentence, no traceback. Four turns share a storage. A run that had ended before the signal came is started again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 20.0
INTERRUPTED = 130
SWEEP = """
name: interrupted
datasets: digits
models: test-convnet
methods: [random, magnitude-l1, magnitude-l2+group-norm, taylor]
speedups: [2, 3]
seeds: [0, 1, 2]
recipe:
  extends: quick
  base: {epochs: 6, warmup_epochs: 0}
  sparsify: {epochs: 4}
  finetune: {epochs: 8}
resources: {cpus: 1}
"""


@dataclass(frozen=True)
class End:
    """How one interrupted command ended."""

    after_s: float  # from its start to the signal
    took_s: float  # from the signal to its end
    code: int
    output: str

    @property
    def wrong(self) -> str:
        """What isn't as it should be; empty if all is."""
        sentences = self.output.count("interrupted; to continue") + self.output.count("raybench run: interrupted")
        found = {
            f"took {self.took_s:.1f} s": self.took_s > LIMIT_S,
            f"exit code {self.code}": self.code != INTERRUPTED,
            f"{sentences} sentences": sentences != 1,
            "a traceback": "Traceback" in self.output,
        }
        return ", ".join(text for text, is_wrong in found.items() if is_wrong)


def interrupted(folder: Path, after_s: float, *options: str) -> End | None:
    """Start the command, interrupt it; None if it had ended before."""
    file = folder / "sweep.yaml"
    file.write_text(SWEEP)
    command = [sys.executable, "-m", "raybench", "run", str(file), "--storage", str(folder / "store"), *options]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=folder,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        time.sleep(after_s)
        if process.poll() is not None:
            return None
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=3 * LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        took = time.monotonic() - sent
        output.seek(0)
        return End(after_s, took, process.returncode, output.read())


def main() -> int:
    """Print one line for each interrupt; 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.15, help="seconds; Python itself takes so long to start")
    parser.add_argument("--most", type=float, default=12.0, help="seconds")
    parser.add_argument("--local", action="store_true")
    args = parser.parse_args()
    draw, wrong, longest, done = random.Random(args.seed), 0, 0.0, 0
    with tempfile.TemporaryDirectory(prefix="raybench-interrupts-") as root:
        turn = 0
        while done < args.times:
            folder = Path(root, str(turn // 4))  # a storage serves four turns, so that none is ever complete
            folder.mkdir(exist_ok=True)
            turn += 1
            end = interrupted(folder, draw.uniform(args.least, args.most), *(["--local"] if args.local else []))
            if end is None:
                print("ended before the signal: again", flush=True)
                continue
            done, longest = done + 1, max(longest, end.took_s)
            wrong += bool(end.wrong)
            print(f"{done:3}: after {end.after_s:5.2f} s, took {end.took_s:5.2f} s {end.wrong}", flush=True)
            if end.wrong:
                print(end.output, flush=True)
    print(f"{done} interrupts, {wrong} wrong, the longest took {longest:.1f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
