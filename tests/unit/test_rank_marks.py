"""Rank marks: which methods the spread can't tell apart, in the table, the wide table and the rows."""

from __future__ import annotations

import pytest

from raybench.reports.board_text import as_text
from raybench.reports.board_wide import as_wide_text
from raybench.reports.leaderboard import Leaderboard
from raybench.reports.leaderboard_rows import rows
from raybench.reports.rank_marks import rank_marks, told_apart
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import row, trial


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ((97.0, 0.5, 3), (96.8, 0.5, 3), False),
        ((97.0, 0.5, 3), (90.0, 0.5, 3), True),
        ((97.0, 0.5, 2), (96.0, 0.5, 2), False),  # t of 2 degrees of freedom is 4.3
        ((97.0, 0.5, 30), (96.0, 0.5, 30), True),
        ((97.0, None, 1), (96.9, 0.5, 3), True),  # nothing is known
        ((97.0, 0.0, 3), (96.9, 0.0, 3), True),
        ((97.0, None, 1), (97.0, None, 1), False),
    ],
)
def test_two_methods(one, other, apart) -> None:
    assert told_apart(one, other) is apart
    assert told_apart(other, one) is apart


def test_the_points_are_those_of_students_t() -> None:
    from scipy.stats import t

    from raybench.reports.rank_marks import T95

    for degrees, point in T95.items():
        assert point == pytest.approx(t.ppf(0.975, degrees), abs=6e-4)


def test_marks_begin_anew_where_a_method_is_told_apart() -> None:
    scores = [(1, 98.0, 0.5, 3), (2, 97.9, 0.5, 3), (3, 95.0, 0.2, 3), (4, 94.9, 0.3, 3), (5, 80.0, None, 1)]
    assert list(rank_marks(scores)) == [1, 1, 3, 3, 5]


def test_tables_and_rows_have_them(tmp_path) -> None:
    store = Store(open_storage(tmp_path / "results"))
    for name, finals in {"lamp": (98.0, 97.0, 97.6), "fpgm": (97.4, 97.2, 97.9), "random": (90.0, 90.5, 90.2)}.items():
        for seed, final in enumerate(finals):
            for speedup in (2.0, 4.0):
                store.publish(row(trial(name, seed=seed, speedup=speedup), metric_final=final))
    found = Leaderboard.read(store)
    text = as_text(found, 80)
    assert [line.split()[:2] for line in text.splitlines() if line.split()[1:2] in (["lamp"], ["fpgm"], ["random"])][
        :3
    ] == [["1", "lamp"], ["~1", "fpgm"], ["3", "random"]]
    assert "can't tell it from the method of that rank (95 %)" in text
    assert [(one["rank"], one["rank_mark"]) for one in rows(found)][:3] == [(1, 1), (2, 1), (3, 3)]
    wide = as_wide_text(found, 80)
    assert wide.count("~97.5") == 4
    assert " by top1 in % (protocol raybench, " in " ".join(wide.split())
    assert "~90" not in wide
