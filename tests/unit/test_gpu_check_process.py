"""`make gpu` as a process: what raises, hangs or dies stops nothing else, and lines are kept as they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import check
from tests.gpu.parts import Part

ROOT = Path(check.__file__).parents[2]
PLANTED = """
import os, signal, subprocess, time
from pathlib import Path

def fine(device, quick):
    print("a library says something", flush=True)
    yield f"fine on {device}", True, str(quick)

def wrong(device, quick):
    yield "wrong", False, "gap 1"

def broken(device, quick):
    yield "before it breaks", True, "1"
    raise RuntimeError("CUDA error: no kernel\\nmore")

def missing(device, quick):
    import nowhere_to_be_found
    yield

def dies(device, quick):
    subprocess.Popen(["sleep", "20"])  # it holds the output open, as a loader's processes do
    os.kill(os.getpid(), signal.SIGSEGV)
    yield

def hangs(device, quick):
    yield "before it hangs", True, "2"
    Path("PIDFILE").write_text(str(os.getpid()))
    time.sleep(600)
"""
TORCH = "def device(kind):\n    return kind\n\ndef set_num_threads(count):\n    pass\n"  # as little as a part asks for


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """A folder with planted parts in it, which the check has in place of its own."""
    text = PLANTED.replace("PIDFILE", str(tmp_path / "pid"))
    (tmp_path / "planted.py").write_text(text)
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    names = ("fine", "wrong", "broken", "missing", "dies", "hangs")
    found = {name: Part(f"planted:{name}", (), 3.0 if name == "hangs" else 60.0) for name in names}
    monkeypatch.setattr(check, "PARTS", found | {"again": found["fine"]})
    return tmp_path


def kept(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_fails_stops_no_other(planted, capsys) -> None:
    table = check.Table(planted / "out")
    began = time.monotonic()
    check.run(list(check.PARTS), "cpu", True, 300, table)
    assert time.monotonic() - began < 20
    found = kept(planted / "out")
    assert [(one["part"], one["what"], one["fine"], one["figures"]) for one in found] == [
        ("fine", "fine on cpu", True, "True"), ("wrong", "wrong", False, "gap 1"),
        ("broken", "before it breaks", True, "1"), ("broken", "broken", False, "RuntimeError: CUDA error: no kernel"),
        ("missing", "missing", True, "not run: No module named 'nowhere_to_be_found'"),
        ("dies", "dies", False, "its process ended by SIGSEGV"), ("hangs", "before it hangs", True, "2"),
        ("hangs", "hangs", False, "killed: it took longer than its limit of 3 s"),
        ("again", "fine on cpu", True, "True"),
    ]  # fmt: skip
    assert found[3]["traceback"].endswith("RuntimeError: CUDA error: no kernel\nmore\n")
    assert table.wrong == 4
    assert gone(int((planted / "pid").read_text()))
    printed = capsys.readouterr().out
    assert printed == (planted / "out" / "table.txt").read_text()
    assert "WRONG" in printed


def test_what_no_longer_fits_is_named(planted, capsys) -> None:
    table = check.Table(planted / "out")
    started = time.monotonic()
    check.PARTS["hangs"] = Part("planted:hangs", (), 300.0)
    check.run(["fine", "hangs", "wrong", "broken"], "cpu", True, 6, table)
    assert time.monotonic() - started < 30
    assert [(one["part"], one["fine"]) for one in kept(planted / "out")][-1] == ("hangs", True)
    assert kept(planted / "out")[-1]["figures"].startswith("cut off: the time was over after ")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "no time left for: wrong, broken (python -m tests.gpu.check --parts wrong broken)"
    assert table.wrong == 0


def test_a_kill_loses_no_line_that_was_printed_and_leaves_no_process(planted) -> None:
    driver = "from tests.gpu import check\nfrom tests.gpu.parts import Part\nfrom pathlib import Path\n"
    driver += "check.PARTS = {name: Part(f'planted:{name}', (), 300.0) for name in ('fine', 'hangs')}\n"
    driver += f"check.run(['fine', 'hangs'], 'cpu', False, 300, check.Table(Path({str(planted / 'out')!r})))\n"
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(2)]
    deadline = time.monotonic() + 20
    while not (planted / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (planted / "out" / "table.txt").read_text() == "".join(printed)
    assert [one["what"] for one in kept(planted / "out")] == ["fine on cpu", "before it hangs"]
    assert gone(int((planted / "pid").read_text()))
