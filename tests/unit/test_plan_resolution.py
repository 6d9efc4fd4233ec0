"""`raybench plan --resolution`: how many seeds tell methods apart"""

import json

import pytest

from raybench.cli.main import main
from raybench.reports.statistics.intervals import half_width
from tests.unit.report_stores import store
from tests.unit.result_rows import row, trial


def planned(capsys, *options):
    code = main(["plan", "quickstart", *options])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize(("resolution", "seeds"), [("1", 3), ("0.5", 5), ("0.3", 10)])
def test_a_stated_spread_is_used(capsys, resolution, seeds):
    code, out, _ = planned(capsys, "--resolution", resolution, "--spread", "0.4")
    assert code in (0, None)
    assert f"{seeds} give a 95 % interval" in out


def test_the_spread_of_finished_cells_leaves_out_what_all_methods_share(tmp_path, capsys):
    """Seeds shift all methods alike by whole points; what is left differs by 0.2 in turn."""
    rows = []
    for seed in range(4):
        for name, sign in (("lamp", 1), ("random", -1)):
            rows.append(row(trial(name, seed=seed), metric_final=90 + seed + sign * 0.1 * (-1) ** seed))
    store(tmp_path / "st", rows)
    code, out, _ = planned(capsys, "--resolution", "0.3", "--timings", str(tmp_path / "st"), "--format", "json")
    assert code in (0, None)
    found = json.loads(out)["seeds_for_resolution"]
    spread = (2 * 4 * 2 * 0.1**2 / 3) ** 0.5
    assert half_width(spread, found) <= 0.3 < half_width(spread, found - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resolution", "0.3"], "say it with --spread POINTS"),
        (["--resolution", "0", "--spread", "1"], "--resolution: found 0, expected more than 0"),
        (["--resolution", "nan", "--spread", "1"], "--resolution: found nan"),
        (["--resolution", "1", "--spread", "-1"], "--spread: found -1"),
    ],
)
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = planned(capsys, *options)
    assert code == 2
    assert words in err
