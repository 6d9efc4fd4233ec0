"""Which tests run which lines of a room, and how long each takes: one run of the tests under coverage."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import coverage
import pytest


@dataclass
class Map:
    """The tests of a room, as one run under coverage saw them.

    What several tests share, a fixture of their module, is run by the first of them and stands for all of them.
    """

    seconds: dict[str, float] = field(default_factory=dict)  # test -> processor time, without shared fixtures
    fixtures: dict[str, float] = field(default_factory=dict)  # shared fixture -> processor time
    uses: dict[str, list[str]] = field(default_factory=dict)  # test -> its shared fixtures
    failed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # file of tests, or one test of it -> hash of what was run
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # file -> line -> the tests that ran it

    @classmethod
    def read(cls, path: Path) -> Map:
        found = cls(**json.loads(path.read_text()))
        found.lines = {file: {int(k): tests for k, tests in lines.items()} for file, lines in found.lines.items()}
        return found

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def unknown(self, root: Path, files: Sequence[str]) -> list[str]:
        """Those of `files` (or single tests, `file::test`) that are new or were changed; their tests are forgotten."""
        found = []
        for file in files:
            sha256 = hashlib.sha256((root / file.partition("::")[0]).read_bytes()).hexdigest()
            if self.files.get(file) != sha256:
                self._forget(file)
                self.files[file] = sha256
                found.append(file)
        return found

    def _forget(self, file: str) -> None:
        gone = {test for test in self.seconds if test == file or test.startswith((f"{file}::", f"{file}["))}
        self.seconds = {test: seconds for test, seconds in self.seconds.items() if test not in gone}
        self.failed = [test for test in self.failed if test not in gone]
        for lines in self.lines.values():
            for line, tests in lines.items():
                lines[line] = [test for test in tests if test not in gone]

    def add(self, other: Map) -> None:
        """Take in the map of other tests."""
        self.seconds |= other.seconds
        self.fixtures |= other.fixtures
        self.uses |= other.uses
        self.failed += other.failed
        for path, lines in other.lines.items():
            known = self.lines.setdefault(path, {})
            for line, tests in lines.items():
                known[line] = known.get(line, []) + tests

    def tests(self, path: str, lines: tuple[int, int] | None, seconds: float) -> list[str]:
        """Tests that run any of `lines`, or all tests for None, within `seconds` together; fastest first."""
        known = self.lines.get(path, {})
        ran = (known.get(line, ()) for line in range(lines[0], lines[1] + 1)) if lines else (self.seconds,)
        found = {test for tests in ran for test in tests} - set(self.failed)
        chosen, ready, sum_ = list[str](), set[str](), 0.0
        for test in sorted(found, key=self.alone):
            sum_ += self.seconds[test] + sum(self.fixtures[name] for name in set(self.uses[test]) - ready)
            if sum_ > seconds:
                break
            ready.update(self.uses[test])
            chosen.append(test)
        return chosen

    def alone(self, test: str) -> float:
        """Seconds of `test` where no other has run its shared fixtures before."""
        return self.seconds[test] + sum(self.fixtures[name] for name in self.uses[test])


@dataclass
class _Context:
    """A test, or a fixture that it shares with others, while it runs."""

    name: str
    seconds: float = 0.0  # of the processor


class Recorder:
    """A pytest plug-in that fills a `Map`."""

    def __init__(self, root: Path, room: str) -> None:
        self._root, self.map = root, Map()
        self._inside: list[_Context] = []  # contexts with their seconds, each within the one before
        self._last = 0.0
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, source=[str(root / "raybench" / room)], messages=False
        )
        self._coverage.set_option("run:core", "ctrace")  # the other cores know no contexts

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[object]:
        self._enter(item.nodeid)
        try:
            return (yield)
        finally:
            self.map.seconds[item.nodeid] = self._leave()
            found = (defs[-1] for defs in item._fixtureinfo.name2fixturedefs.values())
            names = [_name(one) for one in found if one.scope != "function"]
            self.map.uses[item.nodeid] = [name for name in names if name in self.map.fixtures]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[object]:
        if fixturedef.scope == "function":
            return (yield)
        self._enter(_name(fixturedef))
        try:
            return (yield)
        finally:
            self.map.fixtures[_name(fixturedef)] = self._leave()

    def _enter(self, context: str) -> None:
        """Lines and seconds go to `context` from now on, and to the one before again after `_leave`."""
        self._count()
        self._inside.append(_Context(context))
        self._coverage.switch_context(context)

    def _leave(self) -> float:
        self._count()
        left = self._inside.pop()
        if self._inside:
            self._coverage.switch_context(self._inside[-1].name)
        return left.seconds

    def _count(self) -> None:
        now = time.process_time()
        if self._inside:
            self._inside[-1].seconds += now - self._last
        self._last = now

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.map.failed.append(report.nodeid)

    def start(self) -> None:
        self._coverage.start()

    def stop(self) -> Map:
        self._coverage.stop()
        data, stand_for = self._coverage.get_data(), defaultdict[str, set[str]](set)
        for test, names in self.map.uses.items():
            for name in (test, *names):
                stand_for[name].add(test)
        for file in data.measured_files():
            path = Path(file).relative_to(self._root).as_posix()
            self.map.lines[path] = {
                line: sorted({test for name in names for test in stand_for[name]})
                for line, names in data.contexts_by_lineno(file).items()
            }
        return self.map


def _name(fixture: pytest.FixtureDef[object]) -> str:
    return f"{fixture.argname} of {fixture.baseid}"
