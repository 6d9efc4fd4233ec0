"""Checksums of result files: a flipped bit is noticed or changes nothing, and files without checksums stay readable."""

import io
import random
import subprocess
import sys
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.progress.snapshot import StoreReader
from raybench.progress.view import panel
from raybench.results import encoding
from raybench.results.arrow import arrow_schema, to_table
from raybench.results.compaction import compact
from raybench.results.dataset import dataset
from raybench.results.encoding import encode
from raybench.results.files import StoreWarning
from raybench.results.layout import cell_key
from raybench.results.merging import merge
from raybench.results.repair import Repair
from raybench.results.rescue import whole_rows
from raybench.results.schema import Record, row_sha256
from raybench.results.seal import broken_seal
from raybench.results.store import Store
from raybench.storage.damage import DamageWarning
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


def groups_of(monkeypatch, rows):
    monkeypatch.setattr("raybench.results.encoding.ROW_GROUP", rows)


def part_of(store, cells):
    cells = list(cells)
    key = f"{cell_key(cells[0]).rpartition('/')[0]}/part-{0:016x}.parquet"
    store.storage.create(key, encode(cells))
    return key


def set_row(store, cell, **changed):
    """A sound file whose row has other columns than its checksum is of."""
    store.storage.create(cell_key(cell), encode([dict(cell) | changed]))


def test_of_a_part_with_a_damaged_row_group_the_others_are_rescued(store, monkeypatch):
    groups_of(monkeypatch, 10)
    cells = [row(trial(seed=seed)) for seed in range(40)]
    key = part_of(store, cells)
    data = store.storage.read(key)
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(2)
    for column in range(group.num_columns):  # all of it
        start = group.column(column).data_page_offset
        data = data[:start] + b"\xff" * 40 + data[start + 40 :]
    store.storage.replace(key, data)
    repair = Repair(store.storage)
    with pytest.warns(DamageWarning, match=f"{key} is damaged: .*; 30 of its 40 rows are whole and kept"):
        assert repair.run([trial(seed=seed) for seed in range(40)])
    assert len(Store(store.storage).statuses()) == 30
    assert not Repair(store.storage).run([trial(seed=seed) for seed in range(40)])
    assert store.storage.read(store.storage.list("damaged")[0]) == data, "nothing is lost"
    shown = {each["trial_id"]: each["row_sha256"] for each in Store(store.storage).table().to_pylist()}
    assert shown.items() <= {cell["trial_id"]: cell["row_sha256"] for cell in cells}.items()


@pytest.mark.parametrize("seed", range(20))
def test_rows_rescued_from_flipped_bits_are_those_that_were_written(seed, store, monkeypatch):
    groups_of(monkeypatch, 4)
    cells = {cell["trial_id"]: dict(cell) for cell in (row(trial(seed=seed)) for seed in range(12))}
    data = store.storage.read(part_of(store, cells.values()))
    bits = random.Random(seed).sample(range(8 * len(data)), 3)
    for bit in bits:
        data = flipped(data, bit)
    for rescued in whole_rows(data).to_pylist():
        assert row_sha256(rescued) == cells[rescued["trial_id"]]["row_sha256"]


def test_a_flipped_bit_that_no_column_sees_costs_no_row(store):
    cells = [row(trial(seed=seed)) for seed in range(5)]
    key = part_of(store, cells)
    data = store.storage.read(key)
    store.storage.replace(key, flipped(data, 8 * (data.index(b"raybench.sha256") + 20)))
    with pytest.warns(DamageWarning, match="5 of its 5 rows are whole"):
        assert Repair(store.storage).run([trial()])
    assert len(Store(store.storage).table()) == 5


def test_a_whole_row_of_a_damaged_cell_file_is_kept(store):
    cell = row()
    store.publish(cell)
    data = store.storage.read(cell_key(cell))
    store.storage.replace(cell_key(cell), flipped(data, 8 * (data.index(b"raybench.sha256") + 20)))
    with pytest.warns(DamageWarning, match="1 of its 1 rows are whole"):
        assert Repair(store.storage).run([trial()])
    assert Store(store.storage).record(cell["trial_id"])["metric_final"] == 97.0


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("how", ["another trial's", "skipped to ok"])
def test_a_file_under_the_name_of_another_cell_is_no_result(how, store):
    mine, other = row(), row(trial(seed=1))
    if how == "skipped to ok":
        other = Record.skipped(trial(), reason="it can't run")
    store.storage.create(cell_key(mine), encode([other]))
    assert Store(store.storage).table().num_rows == 0
    with pytest.warns(DamageWarning, match="it holds another row than its name says"):
        assert Repair(store.storage).run([trial()])
    assert Store(store.storage).statuses() == {}


@pytest.mark.filterwarnings("ignore:.*other columns than its checksum")
def test_a_row_of_wrong_checksum_is_no_number_for_any_reader(store, tmp_path):
    right, wrong = row(trial(seed=0)), row(trial(seed=1))
    store.publish(right)
    set_row(store, wrong, metric_final=99.0)
    with pytest.warns(StoreWarning, match=f"the row of {wrong['trial_id']} has other columns than its checksum is of"):
        assert store.table(["metric_final"])["metric_final"].to_pylist() == [97.0]
    assert dataset(Store(store.storage)).to_table()["metric_final"].to_pylist() == [97.0]
    assert merge(Store(open_storage(tmp_path / "target")), Store(store.storage)).cells == 1
    with pytest.raises(UserError, match="can't be read"):
        Store(store.storage).record(wrong["trial_id"])
    again = compact(Store(store.storage))
    assert [key for key, _ in again.bad] == [cell_key(wrong)]
    assert store.storage.has(cell_key(wrong)), "left as it is"
    with pytest.warns(DamageWarning):
        assert Repair(store.storage).run([trial(seed=1)])
    assert Store(store.storage).statuses() == {right["trial_id"]: "ok"}


@pytest.mark.filterwarnings("ignore:.*other columns than its checksum")
def test_a_row_of_wrong_checksum_in_a_part_leaves_the_others(store):
    cells = [dict(row(trial(seed=seed))) for seed in range(4)]
    cells[2]["metric_final"] = 99.0
    key = part_of(store, cells)
    for read in (lambda s: s.table(["metric_final"]), lambda s: dataset(s).to_table()):
        assert read(Store(store.storage))["metric_final"].to_pylist() == [97.0] * 3
    compact(Store(store.storage))
    assert store.storage.list("results") == [key]
    with pytest.warns(DamageWarning, match="3 of its 4 rows are whole"):
        assert Repair(store.storage).run([trial()])
    assert len(Store(store.storage).statuses()) == 3


def test_a_store_without_damage_is_checked_without_arrow(tmp_path):
    store = Store(open_storage(tmp_path))
    store.publish(row())
    code = (
        "import sys; from raybench.results.repair import Repair; from raybench.storage.open import open_storage\n"
        f"from tests.unit.result_rows import trial; assert not Repair(open_storage({str(tmp_path)!r})).run([trial()])\n"
        "print('pyarrow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_watch_and_leaderboard_count_the_same_rows(tmp_path, capsys) -> None:
    store = Store(open_storage(str(tmp_path)))
    for seed in range(3):
        store.publish(row(trial(seed=seed)))
    key = store.storage.list("results/cells")[1]
    store.storage.replace(key, flipped(store.storage.read(key), 4000))
    words = f"1 file in {store.storage.url} is left out: {key}: "
    assert main(["leaderboard", str(tmp_path)]) == 0
    ranked = capsys.readouterr()
    assert words in ranked.err
    assert "cells: 2; " in ranked.out
    assert main(["watch", str(tmp_path), "--once"]) == 0
    watched = capsys.readouterr().out
    assert watched.startswith("2 cells (2 ok, 0 failed, 0 skipped)")
    assert words in watched
    assert words in "".join(
        part.plain for part in panel(StoreReader(store.storage).read()).renderables if hasattr(part, "plain")
    )
    store.storage.delete(key)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_files_that_were_found_whole_are_not_read_again(tmp_path, monkeypatch) -> None:
    store = Store(open_storage(str(tmp_path)))
    store.publish(row(trial(seed=0)))
    reader, opened = StoreReader(store.storage), []
    assert reader.read().damaged == {}
    monkeypatch.setattr(type(store.storage), "open", lambda self, key: opened.append(key))
    assert reader.read().sweeps[0].ended == 1
    assert opened == []
