"""The same store on an object store: published, compacted, ranked and asked over S3 on loopback."""

import pytest

pytest.importorskip("moto")

from raybench.reports.leaderboard import Leaderboard
from raybench.reports.query import query
from raybench.results.compaction import compact
from raybench.results.store import Store
from tests.unit.result_rows import failure, row, trial
from tests.unit.test_storage_objects import endpoint, storage  # noqa: F401


def test_results_live_on_s3(storage):  # noqa: F811
    store = Store(storage)
    for seed in range(3):
        assert store.publish(row(trial(seed=seed)))
    assert not store.publish(row(trial(seed=0)))
    assert store.publish_attempt(failure(trial("lamp"))) == 1
    before = store.table().to_pylist()
    assert compact(store).files == 3
    assert Store(storage).table().sort_by("trial_id").to_pylist() == sorted(before, key=lambda r: r["trial_id"])
    assert sorted(store.statuses().values()) == ["failed", "ok", "ok", "ok"]
    assert Leaderboard.read(store).boards[0].entries[0].n == 3
    assert query(store, "SELECT count(*) FROM curves").rows == ((6,),)
