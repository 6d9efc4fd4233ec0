"""Kill -9 wherever it hurts, run again, and get what an unkilled run gets."""

import os
import signal

import pytest

from .resume import Sweep, assert_no_finished_work_ran_again, resumed

pytestmark = pytest.mark.timeout(280)
STAGES = ("base", "sparsify", "finetune")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    """The rows of a run that nobody disturbed."""
    sweep = Sweep(tmp_path_factory.mktemp("unkilled"))
    assert sweep.finish("--local") == 0, sweep.output
    return sweep.rows()


def kill_everywhere(folder, unkilled):
    (folder / "marks").mkdir(parents=True)
    sweep = Sweep(folder, DEADLY=str(folder / "marks"))
    sweep.kill_in("base", "--local")
    assert sweep.finish("--local") == -signal.SIGKILL, "dies with its base copied and not yet published"
    assert sweep.storage.list("stages") == []
    sweep.kill_in("sparsify", "--local")
    sweep.kill_in("finetune", "--local")
    assert sweep.finish("--local") == -signal.SIGKILL, "dies with its row written and not yet published"
    assert sweep.rows() == []
    assert sweep.finish("--local") == 0, sweep.output
    assert_no_finished_work_ran_again(sweep)
    assert all(resumed(sweep, stage) >= 1 for stage in STAGES)
    assert sweep.rows() == unkilled
    assert sweep.storage.list("checkpoints") == sweep.storage.list("leases") == []


def test_a_command_killed_in_every_stage_ends_as_an_unkilled_one(tmp_path, unkilled):
    kill_everywhere(tmp_path, unkilled)


@pytest.mark.cluster
def test_a_worker_and_then_the_driver_of_ray_are_killed(tmp_path, unkilled):
    sweep = Sweep(tmp_path)
    process = sweep.start()
    os.kill(sweep.wait_for("base", process)["pid"], signal.SIGKILL)  # Tune goes on with another worker
    worker = sweep.wait_for("finetune", process)["pid"]
    os.kill(process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)  # Ray would end it within a second, in which it might finish
    process.wait()
    assert sweep.finish() == 0, sweep.output
    assert_no_finished_work_ran_again(sweep)
    assert resumed(sweep, "base") >= 1
    assert resumed(sweep, "finetune") >= 1
    assert sweep.rows() == unkilled, "Ray's rows agree to the bit with those of --local"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("round_", range(5))
def test_five_times_in_a_row(tmp_path, unkilled, round_):
    kill_everywhere(tmp_path / "local", unkilled)
    test_a_worker_and_then_the_driver_of_ray_are_killed(tmp_path / "ray", unkilled)
