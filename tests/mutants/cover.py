"""Which tests run which lines of a room, and how long each takes: one run of the tests under coverage."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path

import coverage
import pytest


@dataclass
class Map:
    """The tests of a room, as one run under coverage saw them."""

    seconds: dict[str, float] = field(default_factory=dict)  # test -> processor time
    failed: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # file -> line -> the tests that ran it

    @classmethod
    def read(cls, path: Path) -> Map:
        found = cls(**json.loads(path.read_text()))
        found.lines = {file: {int(k): tests for k, tests in lines.items()} for file, lines in found.lines.items()}
        return found

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def has(self, file: str) -> bool:
        """Whether the tests of `file`, or the one test, were run."""
        return any(test == file or test.startswith((f"{file}::", f"{file}[")) for test in self.seconds)

    def add(self, other: Map) -> None:
        """Take in the map of other tests."""
        self.seconds |= other.seconds
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
        ordered = sorted(found, key=lambda test: self.seconds[test])
        until = accumulate(self.seconds[test] for test in ordered)
        return [test for test, sum_ in zip(ordered, until, strict=True) if sum_ <= seconds]


class Recorder:
    """A pytest plug-in that fills a `Map`."""

    def __init__(self, root: Path, room: str) -> None:
        self._root, self.map = root, Map()
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, source=[str(root / "raybench" / room)], messages=False
        )
        self._coverage.set_option("run:core", "ctrace")  # the other cores know no contexts

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[object]:
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.map.seconds[item.nodeid] = time.process_time() - began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.map.failed.append(report.nodeid)

    def start(self) -> None:
        self._coverage.start()

    def stop(self) -> Map:
        self._coverage.stop()
        data = self._coverage.get_data()
        for file in data.measured_files():
            by_line = data.contexts_by_lineno(file)
            path = Path(file).relative_to(self._root).as_posix()
            self.map.lines[path] = {n: sorted(filter(None, tests)) for n, tests in by_line.items()}
        return self.map
