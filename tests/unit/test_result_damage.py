"""Checksums of result files: a flipped bit is noticed or changes nothing, and files without checksums stay readable."""

import io
import random
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.errors import UserError
from raybench.results import encoding
from raybench.results.arrow import arrow_schema, to_table
from raybench.results.dataset import dataset
from raybench.results.encoding import encode
from raybench.results.layout import cell_key
from raybench.results.merging import merge
from raybench.results.schema import row_sha256
from raybench.results.seal import broken_seal
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial

FLIPS = 1500


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.fixture
def store(tmp_path):
    return Store(open_storage(tmp_path))


@pytest.mark.filterwarnings("ignore:.*left out")
def test_each_of_1500_flipped_bits_in_a_cell_is_noticed(tmp_path):
    data, cell = encode([row()]), row()
    bits = random.Random(0).sample(range(8 * len(data)), FLIPS)
    assert [bit for bit in bits if broken_seal(io.BytesIO(flipped(data, bit))) is None] == []
    for place, bit in enumerate(bits[:60]):  # the readers look at the same seal
        store = Store(open_storage(tmp_path / str(place)))
        store.storage.create(cell_key(cell), flipped(data, bit))
        assert store.table(["trial_id", "metric_final"]).num_rows == 0
        with pytest.raises(UserError, match="can't be read"):
            store.record(cell["trial_id"])


def test_a_whole_file_reads_as_it_was_written(store):
    cell = row()
    store.publish(cell)
    assert broken_seal(store.storage.open(cell_key(cell))) is None
    assert store.record(cell["trial_id"])["row_sha256"] == row_sha256(cell) == cell["row_sha256"]


@pytest.mark.filterwarnings("ignore:.*left out")
def test_pages_are_written_and_read_with_checksums(store, monkeypatch):
    monkeypatch.setattr("raybench.results.files.broken_seal", lambda source: None)  # as for a large part in a bucket
    cells = [row(trial(seed=seed)) for seed in range(40)]
    store.add(to_table(cells))
    (key,) = store.storage.list("results")
    data = store.storage.read(key)
    page = data.index(b"\x28\xb5\x2f\xfd", len(data) // 2)  # the start of some page's zstd frame
    store.storage.replace(key, flipped(data, 8 * (page + 20)))
    lost = Store(store.storage)
    assert lost.table().num_rows == 0
    assert list(lost.files.bad) == [key]
    with pytest.raises(OSError, match="CRC"):
        dataset(Store(store.storage)).to_table()


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_row_whose_columns_are_not_those_of_its_checksum_is_not_shown(store, monkeypatch):
    cell = row()
    other = dict(cell) | {"metric_final": 99.0}
    store.storage.create(cell_key(cell), encode([other]))
    with pytest.raises(UserError, match="can't be read"):
        store.record(cell["trial_id"])
    assert "other columns than its checksum" in store.files.bad[cell_key(cell)]


def test_a_column_added_later_does_not_change_the_checksum():
    cell = dict(row())
    assert row_sha256(cell | {"added": None}) == row_sha256(cell)
    assert row_sha256(cell | {"metric_final": cell["metric_final"] + 1e-14}) != row_sha256(cell)


def test_rows_keep_a_right_checksum_when_they_are_compacted_and_merged(store, tmp_path):
    cells = [row(trial(seed=seed), curve=[{"epoch": 1, "metric": float("nan")}]) for seed in range(3)]
    store.publish(cells[0])
    store.add(to_table(cells[1:]))
    store.publish_attempt(failure(trial(seed=7)))
    store.publish_attempt(failure(trial(seed=7), message="again"))
    target = Store(open_storage(tmp_path / "target"))
    assert merge(target, store).attempts == 2
    assert merge(target, store).attempts == 0
    for each in (store, target):
        rows = each.table().to_pylist()
        assert len(rows) == 4
        assert [each.record(found["trial_id"])["row_sha256"] for found in rows] == [row_sha256(found) for found in rows]


def test_files_without_checksums_stay_readable(store, monkeypatch):
    old = pa.schema([f for f in arrow_schema() if f.name != "row_sha256"], metadata={b"raybench.schema": b"2"})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, old.remove_metadata(), store_schema=False) as writer:
        writer.add_key_value_metadata(old.metadata)
        writer.write_table(to_table([row()]).select(old.names).cast(old).replace_schema_metadata(None))
    store.storage.create(cell_key(row()), sink.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.record(row()["trial_id"])["metric_final"] == 97.0
        assert store.table().num_rows == dataset(store).count_rows() == 1
    assert broken_seal(io.BytesIO(sink.getvalue())) is None


def test_a_new_file_without_its_seal_is_damaged(monkeypatch):
    monkeypatch.setattr("raybench.results.seal.sealed", lambda data: data)
    assert "differs" in broken_seal(io.BytesIO(encode([row()])))
    monkeypatch.setattr("raybench.results.seal.SEAL_KEY", b"another")
    assert "missing" in broken_seal(io.BytesIO(encoding.encode([row()])))
