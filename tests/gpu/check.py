"""What only a GPU can show, as one table: no ray, no network. `make gpu` runs it; without a card it says so and ends.

    python -m tests.gpu.check [--device cuda] [--quick] [--seconds 540] [--out FOLDER] [--parts PART ...]

The most precious lines come first, each is printed as it is known. Every part (tests/gpu/parts.py) has a limit, and
works in a process of its own from the one that failed or hung before it, so that nothing stops the others. `--seconds`
bounds the whole; what no longer fits is named. `--out` keeps the lines as `lines.jsonl`, one JSON object each with the
full traceback of errors, the table as `table.txt`, and what libraries wrote as `stderr.txt`. It is written as it comes,
so that a kill loses one line at most.

Needs torch 2.11 or newer. What else is missing, and which parts wait for it, is said first; a ResNet's rows need
torchvision beside torch and pydantic, and without torch-pruning they are of dense networks alone. `--device cpu` runs
the parts that a CPU has, to try the script itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tests.gpu.child import MARK
from tests.gpu.parts import DISTRIBUTIONS, PARTS, Part

ROOT = Path(__file__).parents[2]
END_S = 30.0  # for a process to end after its last part
LOOK_S = 1.0  # between two looks whether a process has ended
Event = dict[str, Any]


class Table:
    """Prints lines, and keeps them in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.wrong, self._last = 0, time.monotonic()
        self._began = self._last
        self._files: list[TextIO] = []
        self.errors: TextIO | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = [(folder / name).open("w") for name in ("table.txt", "lines.jsonl")]
            self.errors = (folder / "stderr.txt").open("w")

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._write(0, text)  # first: what was printed is kept, whatever happens next
        print(text, flush=True)

    def line(self, part: str, what: str, fine: bool, figures: str, **more: object) -> None:
        """Print a line of the table with the seconds since the one before it."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        self.wrong += not fine
        kept = {"part": part, "what": what, "fine": fine, "figures": figures, "seconds": round(took, 2), **more}
        self._write(1, json.dumps(kept | {"at": round(now - self._began, 2)}))
        self.say(f"{what:<34} {'ok' if fine else 'WRONG':<6} {took:6.1f} s  {figures}" if what else f"  {figures}")

    def _write(self, number: int, text: str) -> None:
        if self._files:
            print(text, file=self._files[number], flush=True)


class Process:
    """A process that does parts (tests/gpu/child.py), and its events."""

    def __init__(self, device: str, quick: bool, names: Sequence[str], errors: TextIO | None) -> None:
        parts = [f"{name}={PARTS[name].where}" for name in names]
        command = [sys.executable, "-m", "tests.gpu.child", device, "quick" if quick else "whole", *parts]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        self._process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
        self._events: queue.Queue[Event | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._events.put(json.loads(line.removeprefix(MARK)))
        self._events.put(None)

    def next(self, within_s: float) -> Event | None:
        """Its next event, None at its end. TimeoutError where neither comes in time.

        Processes that it has started may outlive it and hold its output open, so that its end is asked for, too.
        """
        ends = time.monotonic() + within_s
        while True:
            over = self._process.poll() is not None
            try:
                return self._events.get(timeout=max(0.0, min(LOOK_S, ends - time.monotonic())))
            except queue.Empty:
                if over:
                    return None
                if time.monotonic() >= ends:
                    raise TimeoutError from None

    def ended(self) -> str:
        """How it has ended."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return f"did not end within {END_S:g} s"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """End it now, whatever it does; one that hangs in the driver isn't waited for."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)


def run(names: Sequence[str], device: str, quick: bool, seconds: float, table: Table) -> None:
    """Do the parts `names` within `seconds`, one process after the other."""
    ends, left = time.monotonic() + seconds, list(names)
    while left and time.monotonic() < ends:
        process = Process(device, quick, left, table.errors)
        try:
            follow(process, left, ends, table)
        finally:
            process.kill()
    if left:
        table.say(f"no time left for: {', '.join(left)} (python -m tests.gpu.check --parts {' '.join(left)})")


def follow(process: Process, left: list[str], ends: float, table: Table) -> None:
    """Print what a process finds, until its end; takes the parts that are over from `left`."""
    while left:
        name, began = left[0], time.monotonic()
        limit = PARTS[name].limit_s
        try:
            for event in of_part(process, min(began + limit, ends)):
                if event["event"] == "line":
                    table.line(name, event["what"], event["fine"], event["figures"])
                elif event["event"] == "missing":
                    table.line(name, name, True, f"not run: {event['figures']}")
                elif event["event"] == "error":
                    table.line(name, name, False, event["figures"], traceback=event["traceback"])
                    left.pop(0)
                    return
        except TimeoutError:
            cut = time.monotonic() >= ends and limit > ends - began
            table.line(name, name, cut, f"cut off: the time was over after {ends - began:.0f} s of it" if cut
                       else f"killed: it took longer than its limit of {limit:g} s")  # fmt: skip
            left.pop(0)
            return
        except EOFError:
            table.line(name, name, False, f"its process {process.ended()}")
            left.pop(0)
            return
        left.pop(0)


def of_part(process: Process, ends: float) -> Iterator[Event]:
    """The events of one part up to its end. TimeoutError after `ends`; EOFError where the process ends before."""
    while True:
        event = process.next(ends - time.monotonic())
        if event is None:
            raise EOFError
        if event["event"] == "end":
            return
        yield event


def runnable(names: Sequence[str], table: Table) -> list[str]:
    """Those of the parts whose modules are here; says in one sentence what is missing."""
    missing = sorted({one for name in names for one in absent(PARTS[name])})
    waiting = [name for name in names if absent(PARTS[name])]
    if missing:
        wanted = " ".join(DISTRIBUTIONS.get(one, one) for one in missing)
        table.say(f"missing: {', '.join(missing)} (pip install {wanted}); not run without: {', '.join(waiting)}")
    if "torch_pruning" in missing:
        table.say("without torch_pruning the rows are of dense networks alone")
    return [name for name in names if name not in waiting]


def absent(part: Part) -> list[str]:
    """The modules that a part needs and that aren't here."""
    return [one for one in part.needs if importlib.util.find_spec(one) is None]


def has_card() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


def main() -> int:
    """Print the table; 1 where a line is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs, one cell")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for the whole; what doesn't fit is named")
    parser.add_argument("--out", type=Path, help="a folder that keeps the lines, as they come")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of: {', '.join(PARTS)}")  # fmt: skip
    args = parser.parse_args()
    began, table = time.monotonic(), Table(args.out)
    names = runnable(args.parts, table)
    if args.device == "cuda" and importlib.util.find_spec("torch") and not has_card():
        table.say("not run: there is no CUDA device on this machine")
        return 0
    run(names, args.device, args.quick, args.seconds - (time.monotonic() - began), table)
    return int(table.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
