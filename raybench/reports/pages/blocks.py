"""Data of the pages: columns as JSON, compressed, in base64. Scripts unpack what they need; nothing is fetched."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from raybench.reports.pages.content import WIDE, Content
from raybench.results.columns import COLUMNS
from raybench.sweep.target import ASKED

CHUNK = 200  # trials in one block
POINTS = 24  # of a curve; longer ones are thinned
NESTED = ("curve", "layers", "provenance")
INDEX = (
    "trial_id", "status", "dataset", "model", "method", "strategy", "protocol", "recipe", *ASKED,
    "seed", "metric_name", "metric_base", "metric_final", "delta", "speedup", "params_kept", "latency_ms",
)  # fmt: skip
ORDER = ("dataset", "model", "strategy", "method", *ASKED, "seed", "trial_id")
TIMES = ("started_at", "finished_at")
MISSING, LARGEST = -(2**62), 1e9


def packed(value: Any) -> str:
    """A value as compressed JSON in base64."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


def trial_blocks(content: Content) -> Iterator[tuple[str, str]]:
    """(name, packed data): `index` with the main columns of every trial, then `t0`, `t1`, ... with the rest."""
    table = content.table.sort_by([(name, "ascending") for name in ORDER])
    yield "index", packed({"size": CHUNK, "columns": {name: column(table[name]) for name in INDEX}})
    own = [c.name for c in COLUMNS if c.name not in (*WIDE, *NESTED, *INDEX)]
    for start in range(0, table.num_rows, CHUNK):
        part = table.slice(start, CHUNK).combine_chunks()
        scalars = {name: column(part[name]) for name in own}
        used = {name: values for name, values in scalars.items() if any(value is not None for value in values)}
        block = {"columns": used, **_curves(part), **_layers(part), **_provenance(part)}
        yield f"t{start // CHUNK}", packed(block)


def column(values: pa.ChunkedArray) -> list[Any]:
    """Values of a column for JSON: floats with seven digits, NaN as null."""
    if pa.types.is_floating(values.type):
        return [rounded(value) for value in values.to_pylist()]
    return list(values.to_pylist())


def rounded(value: float | None) -> float | None:
    """A number with seven digits; null for NaN and infinity, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _curves(part: pa.Table) -> dict[str, Any]:
    """`curve`: a list a trial of numbers into `curves`: [stage, epochs, metrics, losses].

    Epochs are their number where none is left out. Metrics in hundredths and losses in thousandths are written as
    differences to the one before. A curve that several trials share, as that of their base, is written once.
    """
    entries, starts = _entries(part["curve"])
    encoded = entries.field("stage").dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    epochs = _whole(_floats(entries.field("epoch")), 1)
    metrics, losses = (
        _whole(_floats(entries.field("metric")), 100),
        _whole(_floats(entries.field("train_loss")), 1000),
    )
    found: dict[bytes, int] = {}
    written: list[Any] = []
    curves = []
    for start, end in pairwise(starts):
        cuts = [start, *(np.flatnonzero(np.diff(codes[start:end])) + start + 1).tolist(), end] if end > start else []
        own = []
        for first, last in pairwise(cuts):
            key = b"".join(values[first:last].tobytes() for values in (codes, metrics, losses))
            if key not in found:
                found[key] = len(written)
                at = first + _kept(last - first)
                shown = epochs[at].tolist()
                steps = len(shown) if shown == list(range(1, len(shown) + 1)) else shown
                written.append([names[codes[first]], steps, _steps(metrics[at]), _steps(losses[at])])
            own.append(found[key])
        curves.append(own)
    return {"curve": curves, "curves": written}


@cache
def _kept(count: int) -> np.ndarray:
    """Which of so many points are kept."""
    return np.arange(count) if count <= POINTS else np.linspace(0, count - 1, POINTS).round().astype(int)


def _whole(values: np.ndarray, times: int) -> np.ndarray:
    """Whole multiples; a value that is missing, or beyond what a curve can be, is MISSING."""
    there = np.isfinite(values) & (np.abs(values) < LARGEST)
    return np.where(there, np.rint(np.where(there, values, 0) * times), MISSING).astype(np.int64)


def _steps(values: np.ndarray) -> list[int] | None:
    """The first value and the differences; a missing one repeats the last. None without any."""
    gaps = values == MISSING
    if gaps.all():
        return None
    if gaps.any():
        last = np.maximum.accumulate(np.where(gaps, 0, np.arange(len(values))))
        values = np.where(gaps[last], values[~gaps][0], values[last])
    steps = values.copy()
    steps[1:] -= values[:-1]
    return list(steps.tolist())


def _layers(part: pa.Table) -> dict[str, Any]:
    """`layer`: a number a trial into `layers`, each [number into `names`, before, after]; null without layers."""
    entries, starts = _entries(part["layers"])
    names = entries.field("layer").to_pylist()
    before, after = (_whole(_floats(entries.field(name)), 1) for name in ("out_before", "out_after"))
    known: dict[tuple[str, ...], int] = {}
    found: dict[tuple[int, bytes], int] = {}
    written: list[Any] = []
    layers: list[int | None] = []
    for start, end in pairwise(starts):
        if start == end:
            layers.append(None)
            continue
        own = known.setdefault(tuple(names[start:end]), len(known))
        key = (own, before[start:end].tobytes() + after[start:end].tobytes())
        if key not in found:
            found[key] = len(written)
            written.append([own, before[start:end].tolist(), after[start:end].tolist()])
        layers.append(found[key])
    return {"layer": layers, "layers": written, "names": [list(one) for one in known]}


def _provenance(part: pa.Table) -> dict[str, Any]:
    """`made`: a number a trial into `machines`; `times`: start and end, which differ everywhere."""
    rows = [row or {} for row in part["provenance"].to_pylist()]
    known: dict[str, int] = {}
    machines = [{k: v for k, v in row.items() if k not in TIMES and v is not None} for row in rows]
    made = [known.setdefault(json.dumps(machine), len(known)) for machine in machines]
    return {
        "made": made,
        "machines": [json.loads(text) for text in known],
        "times": [[r.get(t) for t in TIMES] for r in rows],
    }


def _entries(column: pa.ChunkedArray) -> tuple[pa.StructArray, list[int]]:
    """Entries of a list column, and where each row starts; the rows of a slice only, not of the whole table."""
    lists = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    offsets = lists.offsets.to_numpy()
    first, last = int(offsets[0]), int(offsets[-1])
    return lists.values.slice(first, last - first), (offsets - first).tolist()


def _floats(values: pa.Array) -> np.ndarray:
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=float)


def table_block(rows: Sequence[Mapping[str, Any]]) -> str:
    """Any table as a packed block of columns, for the downloads."""
    names = list(rows[0]) if rows else []
    return packed({"columns": {name: [_plain(row[name]) for row in rows] for name in names}})


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
