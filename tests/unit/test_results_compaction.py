"""Compaction never loses a row: not to a kill, not to a rival, not to a writer or a reader beside it."""

import random
import threading

import pytest

from raybench.cli.main import main
from raybench.results import compaction
from raybench.results.compaction import compact
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


class Dying:
    """A storage whose process is killed before its `after`-th change."""

    def __init__(self, storage, after):
        self.storage, self.left = storage, after

    def __getattr__(self, name):
        method = getattr(self.storage, name)
        if name not in ("create", "delete", "replace"):
            return method

        def changing(*arguments):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return method(*arguments)

        return changing


def filled(tmp_path, cells=6):
    store = Store(open_storage(tmp_path / "results"))
    for seed in range(cells):
        store.publish(row(trial(seed=seed), metric_final=90.0 + seed))
    store.publish(Record.skipped(trial("bn-scale"), "no batch norm"))
    store.publish_attempt(failure(trial(seed=99)))
    return store


def contents(store):
    """Everything the store holds, as a fresh reader sees it."""
    rows = Store(store.storage).table().to_pylist()
    ids = [r["trial_id"] for r in rows]
    assert len(set(ids)) == len(ids)
    return {r["trial_id"]: r for r in rows}


def files(store):
    return store.storage.list("results/cells")


def test_rows_are_the_same_before_and_after(tmp_path):
    store = filled(tmp_path)
    before, statuses = contents(store), store.statuses()
    done = compact(store)
    assert (done.files, done.parts, done.rows, done.bad) == (7, 1, 7, ())
    assert len(files(store)) == 1
    assert contents(store) == before
    assert Store(store.storage).statuses() == statuses
    assert Store(store.storage).record(trial(seed=3).trial_id) == before[trial(seed=3).trial_id]
    assert compact(store).files == 0


@pytest.mark.parametrize("after", range(9))
def test_a_kill_at_any_step_loses_nothing(tmp_path, after):
    store = filled(tmp_path)
    before = contents(store)
    if after < 8:  # 1 part, 7 deletions
        with pytest.raises(Killed):
            compact(Store(Dying(store.storage, after)))
    else:
        compact(Store(Dying(store.storage, after)))
    assert contents(store) == before
    assert Store(store.storage).statuses() == {i: r["status"] for i, r in before.items()}
    compact(Store(store.storage))
    assert contents(store) == before
    assert len(files(store)) == 1


def test_a_part_that_does_not_read_back_deletes_nothing(tmp_path, monkeypatch):
    store = filled(tmp_path)
    before = files(store)
    monkeypatch.setattr("raybench.results.parts.encode", lambda rows: b"not what was meant")
    with pytest.raises(Exception, match="nothing was deleted"):
        compact(store)
    assert set(before) <= set(files(store))


def test_a_cell_that_was_compacted_is_not_published_again(tmp_path):
    store = filled(tmp_path)
    compact(store)
    assert not Store(store.storage).publish(row(trial(seed=0), metric_final=1.0))
    assert Store(store.storage).publish(row(trial(seed=50)))
    assert contents(store)[trial(seed=0).trial_id]["metric_final"] == 90.0


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path):
    store = filled(tmp_path)
    broken = files(store)[0]
    (tmp_path / "results" / broken).write_bytes(b"PAR1")
    done = compact(Store(store.storage))
    assert [key for key, _ in done.bad] == [broken]
    assert broken in files(store)


def test_parts_stay_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "PART_ROWS", 4)
    store = filled(tmp_path, cells=11)
    before = contents(store)
    compact(store)
    assert len(files(store)) >= 3
    assert all(len(store.files.ids(file)) <= 4 for file in store.listing("results/cells"))
    assert contents(store) == before


def test_writers_readers_and_rival_compactions_at_once(tmp_path):
    root = tmp_path / "results"
    stop, errors, seen = threading.Event(), [], [0]

    def guarded(work):
        def run():
            try:
                work()
            except BaseException as error:
                errors.append(error)
                stop.set()

        return threading.Thread(target=run)

    def write(offset):
        store = Store(open_storage(root))
        for seed in range(offset, offset + 30):
            store.publish(row(trial(seed=seed)))

    def compacting():
        while not stop.is_set():
            compact(Store(open_storage(root)))

    def read():
        while not stop.is_set():
            count = Store(open_storage(root)).table(["trial_id"]).num_rows
            assert count >= seen[0], f"{seen[0]} rows became {count}"
            seen[0] = count

    writers = [guarded(lambda offset=offset: write(offset)) for offset in (0, 1000)]
    others = [guarded(compacting), guarded(compacting), guarded(read)]
    for thread in random.Random(0).sample(writers + others, 5):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    assert errors == []
    store = Store(open_storage(root))
    assert store.table(["trial_id"]).num_rows == 60
    compact(store)
    assert len(files(store)) == 1
    assert Store(open_storage(root)).table(["trial_id"]).num_rows == 60


def test_the_verb_says_what_it_did(tmp_path, capsys):
    store = filled(tmp_path)
    assert main(["compact", store.storage.url]) == 0
    assert capsys.readouterr().out == "merged 7 files into 1: 7 cells\n"
