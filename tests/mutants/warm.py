"""A warm process: it has imported the large libraries, but nothing of raybench, and forks once for each mutant.

In the fork an import hook gives the mutated source of one module; the file itself stays as it is.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeVar

import pytest

from tests.mutants.cover import Map, Recorder
from tests.mutants.mutate import Mutant

LARGE = (
    "torch", "torch.func", "torchvision", "timm", "torch_pruning", "pandas", "pyarrow.dataset", "pyarrow.parquet",
    "scipy.stats", "sklearn.model_selection", "pydantic", "rich.console", "hypothesis",
)  # fmt: skip
FIRST = 12  # so many of the fastest tests run before the files of the others are imported
QUICK = 1.0  # seconds of the processor; slower tests run last
MEMORY = 8 * 2**30  # bytes that a mutant may take beyond what is mapped already
OPTIONS = ("-q", "-p", "no:cacheprovider", "-m", "not slow and not cluster", "--disable-warnings", "--timeout=0")
HANGS = 300  # seconds after which a mutant is ended that waits and computes nothing
LONGEST = 1800  # seconds that one file of tests may take without a mutant
SURVIVED, KILLED, TIMEOUT = "survived", "killed", "timeout"
T = TypeVar("T")


class Limit:
    """A pytest plug-in that ends the process when a test computes far longer than without a mutant."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds  # of the processor, so that a busy machine changes no outcome

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[object]:
        signal.setitimer(signal.ITIMER_PROF, 5 + 5 * self._seconds[item.nodeid])
        return (yield)


def import_large(detection: bool) -> None:
    """Import what every test would import, once; raybench and the tests are imported in each fork."""
    for name in LARGE:
        importlib.import_module(name)
    if detection:
        importlib.import_module("raybench.models.ultralytics")  # it imports ultralytics without network and settings
        for name in [name for name in sys.modules if name.partition(".")[0] == "raybench"]:
            del sys.modules[name]
    from hypothesis import settings

    settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    settings.load_profile("mutants")
    gc.collect()
    gc.freeze()  # a fork's collections leave these objects alone, and so their pages shared
    strangers = [name for name in sys.modules if name.partition(".")[0] == "raybench"]
    assert not strangers, strangers


def record(root: Path, room: str, files: Sequence[str], jobs: int, scratch: Path) -> Map:
    """Run the tests of `files` under coverage, each file in a fork of its own."""

    def work(file: str, to: Path) -> int:
        recorder = Recorder(root, room)
        recorder.start()
        code = pytest.main([*OPTIONS, "--tb=line", f"--basetemp={to}-files", file], plugins=[recorder])
        recorder.stop().write(to)
        return int(code)

    whole, parts = Map(), {file: scratch / f"map-{number}.json" for number, file in enumerate(files)}
    files_of = [(file, partial(work, file, to)) for file, to in parts.items()]
    for file, _ in forked(files_of, jobs, LONGEST, quiet=False):
        if not parts[file].exists():
            raise SystemExit(f"{file} ended before its last test")
        whole.add(Map.read(parts[file]))
    return whole


def judge(
    work: Sequence[tuple[Mutant, list[str]]], seconds: Mapping[str, float], jobs: int, scratch: Path
) -> Iterator[tuple[Mutant, str]]:
    """(mutant, outcome) of each (mutant, tests), `jobs` at a time, as they end; `seconds`: of each test."""
    limit = Limit(seconds)
    tested = [(mutant, partial(_tested, mutant, _parts(tests, seconds), limit, scratch)) for mutant, tests in work]
    for mutant, status in forked(tested, jobs, HANGS, quiet=True):
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL):
            yield mutant, TIMEOUT
        else:
            yield mutant, KILLED if status else SURVIVED


def forked(
    work: Sequence[tuple[T, Callable[[], int]]], jobs: int, most_s: float, quiet: bool
) -> Iterator[tuple[T, int]]:
    """Run each (key, function) in a fork, `jobs` at a time; (key, wait status) of each as it ends or is ended."""
    waiting, running = list(reversed(work)), dict[int, tuple[T, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                key, function = waiting.pop()
                running[_fork(function, quiet)] = (key, time.monotonic() + most_s)
            for pid, (key, until) in list(running.items()):
                if time.monotonic() > until:
                    os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    yield key, status
            time.sleep(0.02)
    finally:
        for pid in running:
            os.killpg(pid, signal.SIGKILL)


def _parts(tests: Sequence[str], seconds: Mapping[str, float]) -> list[Sequence[str]]:
    """`tests`, fastest first, in the parts that run one after the other."""
    quick = sum(seconds[test] <= QUICK for test in tests)
    first = min(FIRST, quick)
    slow = {test.partition("::")[0]: list[str]() for test in tests[quick:]}
    for test in tests[quick:]:
        slow[test.partition("::")[0]].append(test)  # tests of one file may share a fixture
    return [tests[:first], tests[first:quick], *slow.values()]


def _tested(mutant: Mutant, parts: Sequence[Sequence[str]], limit: Limit, scratch: Path) -> int:
    """pytest's exit code over the tests of `parts`, up to the first that fails."""
    sys.meta_path.insert(0, _Hook(mutant))
    for part in parts:
        options = (*OPTIONS, "-x", "--tb=no", f"--basetemp={scratch / str(os.getpid())}")
        if part and (code := pytest.main([*options, *sorted(part)], plugins=[limit])):
            return int(code)
    return 0


def _fork(work: Callable[[], int], quiet: bool) -> int:
    """Run `work` in a fork, a process group of its own; its result is the exit code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    with contextlib.suppress(BaseException):  # a mutant may raise anything; the fork must not go on as its parent
        os.setpgid(0, 0)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
        if quiet:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        code = work()
    sys.stdout.flush()
    os._exit(code)


class _Hook(importlib.abc.MetaPathFinder):
    """Finds one module, with the source of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self._path, self._source = str(Path.cwd() / mutant.path), mutant.source
        self._name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path)
        loader.source = self._source
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    source = ""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)
