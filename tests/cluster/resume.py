"""Running sweeps as people do, killing them without mercy, and reading the journal afterwards."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from raybench.progress.journal import read_journal
from raybench.results.columns import COLUMNS, TIMINGS
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from tests import forked

SWEEP = """
name: killed
datasets: digits
models: test-convnet
methods: {methods}
speedups: 2
seeds: {seeds}
recipe:
  extends: quick
  base: {{epochs: {epochs}, warmup_epochs: 0}}
  sparsify: {{epochs: {epochs}}}
  finetune: {{epochs: {epochs}}}
resources: {{cpus: 1}}
"""

DEADLY = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import deadly
"""
COMMAND = f"""{DEADLY}
from raybench.cli.main import main
sys.exit(main())
"""
OF_THE_RUN = {column.name for column in TIMINGS} - {"device", "device_share"} | {"provenance", "row_sha256"}


class Sweep:
    """One sweep file and one storage, run by the command."""

    verb = "run"

    def __init__(self, folder: Path, methods="magnitude-l2+group-norm", epochs=6, seeds="[0]", **environment):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.storage = folder / "sweep.yaml", LocalStorage(folder / "store")
        self.file.write_text(SWEEP.format(methods=methods, epochs=epochs, seeds=seeds))
        (folder / "tmp").mkdir(exist_ok=True)  # a node lock of its own: timings don't wait for other tests
        own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp"}
        self._environment = os.environ | own | environment
        self._output = folder / "output.txt"

    def start(self, *options: str) -> subprocess.Popen | forked.Forked:
        """Begin the command, without waiting: a new interpreter for Ray, a fork that has torch for --local."""
        words = [self.verb, self.file, "--storage", self.storage.root, *options]
        with open(self._output, "a") as output:
            if "--local" in options:
                return forked.start(DEADLY + forked.COMMAND, *words, output=output, env=self._environment)
            command = [sys.executable, "-c", COMMAND, *words]
            return subprocess.Popen(
                [*map(str, command)], stdout=output, stderr=output, env=self._environment, start_new_session=True
            )

    def finish(self, *options: str) -> int:
        """Run to the end and return the exit code."""
        return self.start(*options).wait(timeout=250)

    @property
    def output(self) -> str:
        """Everything that was printed."""
        return self._output.read_text()

    def running(self, stage: str) -> dict | None:
        """The execution that is in `stage` with at least one epoch in its checkpoint."""
        for entry in read_journal(self.storage):
            stages = [s["stage"] for s in entry["stages"]]
            if entry["status"] != "running" or stages[-1:] != [stage] or not is_alive(entry["pid"]):
                continue
            if self.storage.has(f"checkpoints/{entry['key']}/state.pt"):
                return entry
        return None

    def wait_for(self, stage: str, process: subprocess.Popen | forked.Forked) -> dict:
        """Wait until `stage` has an epoch behind it."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if entry := self.running(stage):
                return entry
            assert process.poll() is None, f"ended before {stage}:\n{self.output}"
            time.sleep(0.01)
        raise AssertionError(f"never came to {stage}:\n{self.output}")

    def kill_in(self, stage: str, *options: str) -> None:
        """Run until `stage` has an epoch behind it, then SIGKILL the command."""
        process = self.start(*options)
        self.wait_for(stage, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def executions(self) -> dict[str, list[dict]]:
        """Unit key -> its executions, oldest first."""
        found = defaultdict(list)
        for entry in read_journal(self.storage):
            found[entry["key"]].append(entry)
        return found

    def rows(self) -> list[dict]:
        """Rows without what may differ from run to run: timings, and who ran them when."""
        names = [column.name for column in COLUMNS if column.name not in OF_THE_RUN]
        return sorted(Store(self.storage).table(names).to_pylist(), key=lambda row: row["trial_id"])


def assert_no_finished_work_ran_again(sweep: Sweep) -> None:
    """Every unit ended well exactly once, and nothing of it ran after that."""
    for key, executions in sweep.executions().items():
        statuses = [entry["status"] for entry in executions]
        assert statuses.count("ok") == 1, (key, statuses)
        assert statuses[-1] == "ok", (key, statuses)


def resumed(sweep: Sweep, stage: str) -> int:
    """The epoch at which the last execution of `stage` continued."""
    for entries in sweep.executions().values():
        for ended in entries[-1]["stages"]:
            if ended["stage"] == stage:
                return ended["resumed_from"]
    raise AssertionError(f"{stage} never ran")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
