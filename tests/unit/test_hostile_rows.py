"""Rows of a stranger's storage: ids that are none, files that unpack to more than memory holds, trials not in JSON."""

import pytest

from raybench.cli.main import main
from raybench.results import files
from raybench.results.layout import CELLS
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.open import open_storage

from .result_rows import row, trial

BAD = [
    "../../../etc/passwd",
    "x" * 10_000,
    "",
    "0123456789ABCDEF",
    "0123456789abcdef/x",
    "\x1b[2J",
    "0123456789abcdef\n",
]


def part_of(folder, records):
    """A storage with one part that holds `records`."""
    store = Store(open_storage(folder))
    from raybench.results.encoding import encode

    store.storage.create(f"{CELLS}/dataset=digits/model=m/part-0123456789abcdef.parquet", encode(records))
    return store


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_a_row_whose_id_is_none_is_left_out_and_its_neighbour_merged(bad, tmp_path, capsys):
    good = row(trial(seed=1))
    fields = dict(row(trial(seed=2))) | {"trial_id": bad}
    part_of(tmp_path / "theirs", [Record(fields), good])
    assert main(["merge", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    out, err = capsys.readouterr()
    assert "copied 1 cell" in out
    assert "1 row without a trial_id of 16 hex digits" in err
    assert list(Store(open_storage(tmp_path / "ours")).statuses()) == [good["trial_id"]]
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "theirs"}


def test_a_file_that_unpacks_to_too_much_is_left_out(tmp_path, monkeypatch, capsys):
    part_of(tmp_path / "theirs", [row(trial(seed=1)), row(trial(seed=2))])
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    assert main(["leaderboard", str(tmp_path / "theirs")]) == 2
    assert "it unpacks to" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"method": 3}'], ids=lambda text: text[:8])
@pytest.mark.parametrize("verb", ["leaderboard", "show", "query", "watch", "merge"])
def test_a_trial_that_is_no_json_ends_no_verb_in_a_traceback(verb, text, tmp_path, capsys):
    one = row(trial(seed=1)).replaced(trial=text)
    Store(open_storage(tmp_path / "s")).publish(one)
    commands = {
        "leaderboard": ["leaderboard", str(tmp_path / "s")],
        "show": ["show", one["trial_id"], "--results", str(tmp_path / "s")],
        "query": ["query", "SELECT * FROM trials", str(tmp_path / "s")],
        "watch": ["watch", str(tmp_path / "s"), "--once"],
        "merge": ["merge", str(tmp_path / "t"), str(tmp_path / "s")],
    }
    assert main(commands[verb]) in (0, 1, 2, 3)
    assert "Traceback" not in capsys.readouterr().err
