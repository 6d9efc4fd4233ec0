"""The node lock: many compute together, one times alone, and a killed process holds nothing."""

import signal
import subprocess
import sys
import threading
import time

from raybench.pauses import pause, paused_s, pausing
from raybench.pipeline import exclusive
from raybench.pipeline.exclusive import Machine, lock_by

HOLD = """
import sys, time, pathlib
from raybench.pipeline.exclusive import Machine
with Machine(pathlib.Path(sys.argv[1])).computing():
    print("in", flush=True)
    time.sleep(60)
"""


def hold(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    return process


def test_alone_on_the_machine_is_exclusive_at_once(tmp_path):
    with Machine(tmp_path).computing() as node, node.exclusive(wait_s=0) as alone:
        assert alone


def test_another_process_that_computes_prevents_it_and_its_death_does_not(tmp_path):
    other = hold(tmp_path)
    with Machine(tmp_path).computing() as node:
        with node.exclusive(wait_s=0.2) as alone:
            assert not alone
        other.kill()
        other.wait()
        with node.exclusive(wait_s=5) as alone:
            assert alone


def test_a_stopped_process_holds_up_no_timing_and_spoils_one_only_if_it_goes_on(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("time.sleep(60)", "exec('while True: pass')"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "in\n"
    other.send_signal(signal.SIGSTOP)
    try:
        with Machine(tmp_path).computing() as node:
            with node.exclusive(wait_s=20) as alone:
                assert alone
                time.sleep(0.1)
                assert alone
                other.send_signal(signal.SIGCONT)
                time.sleep(0.3)
                assert not alone
            with node.exclusive(wait_s=0.2) as alone:
                assert not alone
    finally:
        other.kill()
        other.wait()


def test_a_timing_that_waits_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(exclusive, "NOTICE_S", 0.1)
    monkeypatch.setattr(exclusive, "LOOK_S", 0.05)
    other, notices = hold(tmp_path), []
    try:
        with Machine(tmp_path).computing(notices.append) as node, node.exclusive(wait_s=0.5) as alone:
            assert not alone
    finally:
        other.kill()
        other.wait()
    assert notices == [f"a timing waits for process {other.pid}, which computes"]


def test_nobody_starts_to_compute_while_somebody_times(tmp_path):
    entered = []

    def compute():
        with Machine(tmp_path).computing():
            entered.append(time.monotonic())

    with Machine(tmp_path).computing() as node:
        with node.exclusive() as alone:
            thread = threading.Thread(target=compute)
            thread.start()
            time.sleep(0.2)
            timed_until = time.monotonic()
            assert alone
            assert not entered
        thread.join(timeout=5)
    assert entered
    assert entered[0] >= timed_until


def test_two_that_want_to_time_get_their_turns(tmp_path):
    turns = []

    def time_something(name):
        with Machine(tmp_path).computing() as node, node.exclusive(wait_s=5) as alone:
            turns.append((name, alone, "start"))
            time.sleep(0.05)
            turns.append((name, alone, "end"))

    threads = [threading.Thread(target=time_something, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert all(alone for _, alone, _ in turns)
    assert [turn for _, _, turn in turns] == ["start", "end", "start", "end"]


def test_who_computes_gives_way_between_two_steps(tmp_path):
    """Else a timing would wait for the end of the others' training, and be given up after a minute."""
    finished, timed, waits = [], threading.Event(), []

    def train():
        machine = Machine(tmp_path)
        with machine.computing(), pausing(lambda: machine.give_way(lambda: finished.append("step"))):
            while not timed.is_set():
                pause()
                time.sleep(0.01)
            waits.append(paused_s())

    thread = threading.Thread(target=train)
    with Machine(tmp_path).computing() as node:
        thread.start()
        time.sleep(0.05)
        assert not finished  # nobody waits: work goes on
        with node.exclusive(wait_s=10) as alone:
            assert alone
            assert finished == ["step"]  # what the device was given is done
            time.sleep(0.1)
            assert alone
        timed.set()
        thread.join(timeout=5)
    assert waits[0] >= 0.1


def test_a_process_that_times_does_not_give_way_to_itself(tmp_path):
    machine, other = Machine(tmp_path), Machine(tmp_path)
    with machine.computing(), machine.exclusive() as alone:
        assert machine.give_way() == 0
        assert not lock_by(other._gate, 0.0)
        assert alone


def test_without_a_machine_a_pause_is_nothing():
    pause()
    assert paused_s() == 0
