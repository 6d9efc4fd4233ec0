"""`raybench run` as a person meets it: Ctrl-C, failures, plug-ins, two at once, and nothing left to do."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from raybench.results.store import Store

from .resume import Sweep, assert_no_finished_work_ran_again, is_alive

pytestmark = pytest.mark.timeout(250)
BROKEN = '''
from dataclasses import dataclass

from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance


@importance("broken")
@dataclass(frozen=True)
class Broken(ElementwiseImportance):
    """Raises at the first layer."""

    needs = "weights"

    def saliency(self, layer):
        raise ArithmeticError(f"no saliency for {layer.name}")


@importance("from-a-plugin")
@dataclass(frozen=True)
class Mine(ElementwiseImportance):
    """Works."""

    needs = "weights"

    def saliency(self, layer):
        return layer.weight.abs()
'''


@pytest.mark.cluster
def test_failures_are_rows_and_named_and_plug_ins_travel(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(BROKEN)
    sweep = Sweep(tmp_path, methods="[broken, from-a-plugin]", epochs=1, seeds="[0, 1]")
    assert sweep.finish("--plugin", str(plugin)) == 1
    rows = {(row["importance"], row["seed"]): row for row in Store(sweep.storage).table().to_pylist()}
    assert {key: row["status"] for key, row in rows.items()} == {
        ("broken", 0): "failed", ("broken", 1): "failed", ("from-a-plugin", 0): "ok", ("from-a-plugin", 1): "ok"
    }  # fmt: skip
    row = rows["broken", 0]
    assert (row["stage"], row["error_type"]) == ("select", "ArithmeticError")
    assert "mine.py" in sweep.storage.read(row["traceback_path"]).decode()
    assert len(Store(sweep.storage).attempts(row["trial_id"])) == 1
    assert "4 cells: 2 failed, 2 ok" in sweep.output
    assert f"failed {row['trial_id']} in select: ArithmeticError: no saliency for" in sweep.output
    assert "raybench leaderboard" in sweep.output


@pytest.mark.cluster
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_lets_go_of_everything_and_says_how_to_go_on(tmp_path, sent):
    sweep = Sweep(tmp_path, epochs=500)
    process = sweep.start()
    worker = sweep.wait_for("base", process)["pid"]
    process.send_signal(sent)
    assert process.wait(timeout=60) == 130
    assert "interrupted; to continue: raybench run" in sweep.output
    assert "Traceback" not in sweep.output
    assert sweep.storage.list("leases") == []
    assert sweep.storage.list("checkpoints"), "the epochs that were trained are kept"
    deadline = time.monotonic() + 10
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(worker)


def test_two_commands_on_one_storage_share_the_work(tmp_path):
    # epochs enough that who comes second to the base finds cells left when it looks again, two seconds later
    sweep = Sweep(tmp_path, methods="[random, magnitude-l1, magnitude-l2]", epochs=16, seeds="[0, 1]")
    rivals = [sweep.start("--local"), sweep.start("--local")]
    assert [rival.wait(timeout=200) for rival in rivals] == [0, 0], sweep.output
    assert_no_finished_work_ran_again(sweep)
    entries = [entry for executions in sweep.executions().values() for entry in executions]
    assert len(entries) == 1 + (2 + 1 + 1) + 6, "each unit ran once; both seeds share the selections by magnitude"
    assert len(Counter(entry["pid"] for entry in entries)) == 2, "both worked"
    assert len(sweep.rows()) == 6


def test_a_second_run_plans_nothing_and_imports_neither_torch_nor_ray(tmp_path):
    sweep = Sweep(tmp_path, methods="random", epochs=1)
    assert sweep.finish("--local") == 0, sweep.output
    code = "import sys; from raybench.cli.main import main; code = main(); print(*sorted({'torch', 'ray'} & set(sys.modules))); sys.exit(code)"  # noqa: E501
    started = time.monotonic()
    again = subprocess.run(
        [sys.executable, "-c", code, "run", str(sweep.file), "--storage", str(sweep.storage.root)],
        capture_output=True, text=True, env=os.environ, timeout=60,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 10
    assert "nothing to run" in again.stdout
    assert again.stdout.splitlines()[-1] == ""


def test_a_storage_that_cannot_be_written_is_told_before_anything_runs(tmp_path):
    sweep = Sweep(tmp_path, methods="random", epochs=1)
    Path(sweep.storage.root).write_text("in the way")
    assert sweep.finish("--local") == 2
    assert "found a file; expected the --storage of a run, a folder" in sweep.output
