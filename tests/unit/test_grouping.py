"""Grouping in Python gives what Arrow's gives, and a leaderboard needs no pandas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from raybench.reports import grouping
from raybench.reports.grouping import HOW, grouped
from raybench.results.constants import array_of, constant

KEYS = ("config", "speedup")
ASKED = [("one", "one"), ("trial", "min"), ("note", "max"), ("seed", "count"), ("seed", "distinct")]
ASKED += [("seed", "count_distinct")] + [
    (name, how) for name in ("metric", "steps") for how in ("mean", "stddev", "max")
]


def table(rows: int) -> pa.Table:
    draw = np.random.default_rng(rows)
    some = lambda values: [None if draw.random() < 0.2 else value for value in values]  # noqa: E731
    return pa.table(
        {
            "config": [f"c{n}" for n in draw.integers(0, 9, rows)],
            "speedup": pa.array(some(draw.choice([2.0, 4.0], rows).tolist()), pa.float64()),
            "one": ["same"] * rows,
            "trial": [f"{n:04x}" for n in draw.integers(0, 9999, rows)],
            "note": pa.array(some(draw.choice(["floor", "granularity"], rows).tolist()), pa.string()),
            "seed": draw.integers(0, 4, rows),
            "metric": pa.array(some((90 + 9 * draw.random(rows)).tolist()), pa.float64()),
            "steps": pa.array(some(draw.integers(0, 99, rows).tolist()), pa.int64()),
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 7, 60, 900])
def test_both_ways_agree(rows, monkeypatch) -> None:
    found = table(rows)
    ours = grouped(found, KEYS, ASKED)
    assert grouped(found.to_pylist(), KEYS, ASKED) == ours
    monkeypatch.setattr(grouping, "SMALL", -1)
    theirs = grouped(found, KEYS, ASKED)
    assert len(ours) == len(theirs)
    known = {tuple(one[key] for key in KEYS): one for one in ours}
    for other in theirs:  # in an order of their own
        own = known[tuple(other[key] for key in KEYS)]
        for name, value in other.items():
            if isinstance(value, float):
                assert own[name] == (pytest.approx(value, rel=1e-12) if "stddev" in name else value), name
            elif isinstance(value, list):
                assert sorted(own[name]) == sorted(value), name
            else:
                assert own[name] == value, name
    assert {how for _, how in ASKED} == set(HOW)


@pytest.mark.parametrize(
    ("kind", "values"),
    [(bool, [True, False] * 9), (bool, []), (int, [1, -2, 1 << 40]), (float, [0.1, -0.0]), (str, ["", "ä", "b" * 99])],
)
def test_values_are_those_that_arrow_makes(kind, values) -> None:
    assert array_of(kind, values).to_pylist() == values
    array_of(kind, values).validate(full=True)
    for value in values:
        assert constant(value) == pa.scalar(value)


def test_a_leaderboard_needs_no_pandas(tmp_path) -> None:
    from raybench.results.store import Store
    from raybench.storage.open import open_storage
    from tests.unit.result_rows import row, trial

    store = Store(open_storage(tmp_path))
    for seed in range(2):
        store.publish(row(trial("lamp", seed=seed)))
    code = "import sys; from raybench.cli.main import main; main(sys.argv[1:]); print('pandas' in sys.modules)"
    for options in ([], ["--wide"], ["--speedup", "2"], ["--speedup", "average"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "leaderboard", str(tmp_path), *options], capture_output=True, text=True
        )
        assert (done.stdout.splitlines()[-1], done.returncode) == ("False", 0), done.stderr
        assert "lamp" in done.stdout
