"""The store as one pyarrow dataset. Columns of compacted parts are read only when a scan needs them."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.dataset as ds

from raybench.results.arrow import arrow_schema, empty
from raybench.results.files import concat, first_of_each
from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, last_attempts
from raybench.results.store import ALL_COLUMNS, Store


def dataset(store: Store) -> ds.Dataset:
    """Table `trials` as a dataset with every column.

    Compacted parts are read lazily; single-cell files, attempts, and parts with duplicate rows or an older schema
    are loaded now.

    Args:
        store: the store to read.

    Returns:
        A dataset of the columns in `raybench/results/columns.py`. Files that can't be read are named in one
        StoreWarning.

    Raises:
        UserError: a newer raybench wrote one of the files.

    Example:
        >>> import tempfile
        >>> from raybench.results.store import Store
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dataset(Store(open_storage(folder))).count_rows()
        0
    """
    found = store.settled(lambda: _dataset(store))
    store.files.warn()
    return found


def _dataset(store: Store) -> ds.Dataset:
    cells = store.listing(CELLS)
    copies = Counter(file.trial_id for file in cells if file.trial_id)
    for file in cells:
        if file.kind == "part":
            copies.update(trial_id for trial_id, _ in store.files.ids(file))
    lazy = [file for file in cells if file.kind == "part" and _is_plain(store, file, copies)]
    eager = [file for file in cells if file not in set(lazy)]
    attempts = last_attempts(store.listing(ATTEMPTS), set(copies))
    none = empty(ALL_COLUMNS)
    done = first_of_each(concat(store.files.tables(eager, ALL_COLUMNS), none))
    memory = concat([done, *store.files.tables(attempts, ALL_COLUMNS)], none).replace_schema_metadata(None)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    schema, form = arrow_schema().remove_metadata(), ds.ParquetFileFormat(default_fragment_scan_options=checked)
    fragments = [form.make_fragment(store.storage.open(file.key)) for file in lazy]
    return ds.dataset([ds.FileSystemDataset(fragments, schema, form), ds.dataset(memory, schema=schema)])


def _is_plain(store: Store, part: ResultFile, copies: Counter[str]) -> bool:
    """Whether a part can be scanned as it is: it has the current schema, and no other file holds one of its rows."""
    ids = store.files.ids(part)
    if not ids or any(copies[trial_id] > 1 for trial_id, _ in ids):
        return False
    if part.key in store.files.bad:
        return False
    with store.files.open(part.key) as parquet:
        return pa.schema(parquet.schema_arrow, metadata=None).equals(arrow_schema().remove_metadata())
