"""The store: written once, read fast, and no file that can't be read goes unnoticed."""

import os
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.errors import UserError
from raybench.results.arrow import VERSION_KEY, arrow_schema
from raybench.results.files import StoreWarning
from raybench.results.schema import COLUMNS, Record
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial


@pytest.fixture
def store(tmp_path):
    return Store(open_storage(tmp_path / "results root"))


def path_of(store, key):
    return os.path.join(store.storage.url, key)


def test_a_cell_is_written_once(store):
    assert store.publish(row())
    assert not store.publish(row(metric_final=1.0))
    assert store.table(["metric_final"]).to_pylist() == [{"metric_final": 97.0}]


def test_a_row_reads_back_as_it_was_written(store):
    record = row(trial(model="timm:a/b é", regularizer="group-norm"))
    store.publish(record)
    read = store.record(record["trial_id"])
    assert read["curve"] == [dict(entry) for entry in record["curve"]]
    assert read["layers"] == [dict(entry) for entry in record["layers"]]
    assert read["provenance"] == dict(record["provenance"])
    flat = [c.name for c in COLUMNS if not c.fields]
    assert {n: read[n] for n in flat} == {n: record[n] for n in flat}
    assert store.table().schema.names == [c.name for c in COLUMNS]


def test_partitions_are_escaped_and_hive_readers_agree(store):
    import pyarrow.dataset as ds

    store.publish(row(trial(model="timm:a/b é")))
    (key,) = store.storage.list("results/cells")
    assert key.startswith("results/cells/dataset=digits/model=timm%3Aa%2Fb%20%C3%A9/")
    found = ds.dataset(path_of(store, "results/cells"), partitioning="hive").to_table(columns=["model"])
    assert found.to_pylist() == [{"model": "timm:a/b é"}]


def test_statuses_come_from_names_alone(store):
    store.publish(row(trial(seed=0)))
    store.publish(Record.skipped(trial(seed=1), "no batch norm"))
    store.publish_attempt(failure(trial(seed=2)))
    for key in store.storage.list("results"):
        open(path_of(store, key), "wb").close()
    ids = [trial(seed=seed).trial_id for seed in range(3)]
    assert store.statuses() == dict(zip(ids, ("ok", "skipped", "failed"), strict=True))


def test_the_last_attempt_stands_until_there_is_a_cell(store):
    assert [store.publish_attempt(failure(message=m)) for m in "abc"] == [1, 2, 3]
    assert store.table(["status", "attempt", "error_message"]).to_pylist() == [
        {"status": "failed", "attempt": 3, "error_message": "c"}
    ]
    store.publish(row())
    assert store.table(["status"]).to_pylist() == [{"status": "ok"}]
    assert store.statuses() == {trial().trial_id: "ok"}
    assert len(store.attempts(trial().trial_id)) == 3


def test_racing_attempts_get_numbers_of_their_own(store):
    numbers, lock = [], threading.Lock()

    def fail():
        number = store.publish_attempt(failure())
        with lock:
            numbers.append(number)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_a_prefix_finds_one_trial_or_says_why_not(store):
    for seed in range(20):
        store.publish(row(trial(seed=seed)))
    wanted = trial(seed=4).trial_id
    assert store.record(wanted[:8])["seed"] == 4
    with pytest.raises(UserError, match="no trial 'xyz' among the 20"):
        store.record("xyz")
    with pytest.raises(UserError, match="is not unique"):
        store.record(next(c for c in "0123456789abcdef" if sum(i[0] == c for i in store.statuses()) > 1))


def test_bad_files_are_named_and_the_rest_is_read(store):
    for seed in range(4):
        store.publish(row(trial(seed=seed)))
    keys = store.storage.list("results/cells")
    folder = keys[0].rpartition("/")[0]
    with open(path_of(store, keys[0]), "r+b") as file:
        file.truncate(40)
    open(path_of(store, keys[1]), "wb").close()
    os.rename(path_of(store, keys[2]), path_of(store, f"{folder}/{'0' * 16}.parquet"))
    with open(path_of(store, f"{folder}/notes.txt"), "w") as file:
        file.write("mine")
    pq.write_table(pa.table({"x": [1]}), path_of(store, f"{folder}/{'f' * 16}.parquet"))
    with pytest.warns(StoreWarning) as warned:
        assert store.table(["status"]).num_rows == 1
    message = str(warned[0].message)
    assert len(warned) == 1
    assert "5 files in" in message
    for name in (keys[0], keys[1], "0" * 16, "notes.txt", "f" * 16):
        assert name in message
    assert "another program wrote it" in message


def rewrite(store, key, table, version):
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: str(version)}), path_of(store, key))


def test_a_newer_schema_is_refused(store):
    store.publish(row())
    (key,) = store.storage.list("results/cells")
    rewrite(store, key, store.table(), 999)
    with pytest.raises(UserError, match="written by a newer raybench: found result schema 999, expected at most"):
        Store(store.storage).table()
    assert Store(store.storage).statuses()


def test_an_older_schema_reads_with_nulls(store):
    store.publish(row(trial(seed=0)))
    store.publish(row(trial(seed=1)))
    key = next(k for k in store.storage.list("results/cells") if trial(seed=0).trial_id in k)
    full = store.table()
    old = full.filter(pa.compute.equal(full["seed"], 0)).drop_columns(["top5", "layers", "provenance"])
    old = old.append_column("provenance", pa.array([{"torch": "2.0"}])).append_column("gone", pa.array([1]))
    rewrite(store, key, old, 1)
    table = Store(store.storage).table()
    assert table.schema.equals(arrow_schema())
    by_seed = {r["seed"]: r for r in table.to_pylist()}
    assert by_seed[0]["layers"] is None
    assert by_seed[0]["provenance"]["torch"] == "2.0"
    assert by_seed[0]["provenance"]["python"] is None
    assert by_seed[1]["layers"]
    versions = Store(store.storage).table(["seed", "provenance.python"]).to_pylist()
    assert {v["seed"]: v["provenance.python"] is None for v in versions} == {0: True, 1: False}


def test_timings_are_means_by_kind(store):
    store.publish(row(trial(seed=0), seconds_finetune=4.0))
    store.publish(row(trial(seed=1), seconds_finetune=8.0))
    store.publish(row(trial(seed=2), seconds_finetune=1.0, resumed_from=5))
    where = ("digits", "cifar-resnet20", "quick")
    select = ("select", *where, "raybench", "magnitude-l2")
    assert store.timings() == {("base", *where): 10.0, select: 1.0, ("cell", *where): 7.0}


def test_an_empty_store_has_the_schema(store):
    assert store.statuses() == {}
    assert store.table().schema.equals(arrow_schema())
    assert store.timings() == {}


def test_a_plan_over_small_files_needs_no_arrow(store):
    store.publish(row())
    code = (
        "import sys; from raybench.results.store import Store; from raybench.storage.open import open_storage;"
        f"assert Store(open_storage({store.storage.url!r})).statuses();"
        "print([m for m in ('pyarrow', 'torch', 'ray', 'pandas') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
