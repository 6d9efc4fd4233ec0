"""Finds rows that raybench can't have written, though their checksum is right: readers leave them out like damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench.results.columns import BY_NAME
from raybench.results.constants import array_of, constant
from raybench.storage.json_text import is_any, is_method, is_object, is_text, read_object
from raybench.sweep.kinds import CHANNELS, TOKENS
from raybench.sweep.target import ASKED

STATUSES = ("ok", "failed", "skipped")
MOST = 1e15  # no count, time in ms, number of MACs or of bytes is larger
POSITIVE = (  # what readers divide by
    "speedup", "macs_base", "macs", "params_base", "params", "params_kept", "latency_base_ms", "latency_ms",
    "latency_b32_base_ms", "latency_b32_ms", "throughput_base", "throughput", "depth", "image_size", "round_to",
    "speedup_target", "params_target", "latency_target_ms", "latency_target",
)  # fmt: skip
SIGNED = (  # any number whose squares have a finite sum: the loss of a network that diverged is large, a mAP may be -1
    "metric_base", "metric_pruned", "metric_recalibrated", "metric_final", "metric_val", "delta", "loss_final", "top5",
    "map50", "stopped_below",
)  # fmt: skip
LARGEST = 1e100
ANY = ("seed", "base_seed")
WORDS: Mapping[str, tuple[str, ...]] = {"status": STATUSES, "kind": (CHANNELS, TOKENS)}
NAMES, LONGEST_NAME = ("dataset", "model"), 240  # each names a folder
_PART = r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,200}"
PATHS = {"traceback_path": f"^$|^{_PART}(/{_PART})*$"}  # no name starts with a dot: none leads out of the storage
TRIAL = {  # what must be there of the column `trial`, of which labels, cards and sweep files are made
    "model": is_text, "dataset": is_text, "importance": is_method, "regularizer": lambda v: v is None or is_method(v),
    "weights": is_object, "model_params": is_object, "dataset_params": is_object,
    **dict.fromkeys(("strategy", "speedup", "seed", "base_seed", "protocol", "schedule", "round_to"), is_any),
    "recipe": is_object,
}  # fmt: skip


def implausible_rows(table: pa.Table) -> dict[int, str]:
    """Find the rows that can't be rows of raybench.

    A row must have the flat columns that its status needs (`needed` in columns.py; the first raybench wrote these, too,
    but for those with a default, which `conform` fills), finite numbers in the range of their column, a known status
    and kind, an asked amount, paths inside the storage, and a trial whose JSON has the fields that readers use.

    Args:
        table: rows with some of the columns, as `conform` returns them. Only what is there is checked, a dotted column
            isn't.

    Returns:
        Their positions in the table -> what is wrong.

    Example:
        >>> rows = pa.table({"status": ["ok", "failed"], "metric_final": pa.array([None, None], pa.float64())})
        >>> implausible_rows(rows)
        {0: "metric_final: found null, expected a value in a row with status 'ok'"}
    """
    found: dict[int, str] = {}
    for bad, why in _checks(table):
        if pc.any(bad, min_count=0).as_py():
            for place, wrong in enumerate(bad.to_pylist()):
                if wrong:
                    found.setdefault(place, why)
    return dict(sorted(found.items()))


def described(table: pa.Table, found: Mapping[int, str]) -> str:
    """Name implausible rows in a message.

    Args:
        table: rows with their trial_id.
        found: positions of the rows -> what is wrong.

    Returns:
        The message: the first row and why, and how many others there are.

    Example:
        >>> described(pa.table({"trial_id": ["0123456789abcdef"]}), {0: "status: found null"})
        'the row of 0123456789abcdef is none that raybench writes: status: found null'
    """
    place, why = next(iter(found.items()))
    more = f"; and {len(found) - 1} more such rows" if len(found) > 1 else ""
    return f"the row of {table['trial_id'][place].as_py()} is none that raybench writes: {why}{more}"


def _checks(table: pa.Table) -> Iterator[tuple[Any, str]]:
    """(mask of the wrong rows, what is wrong with them); columns without a wrong value mostly yield nothing."""
    names = [name for name in table.column_names if name in BY_NAME]
    for name in names:
        column, values = BY_NAME[name], table[name]
        if values.null_count and not column.fields and "status" in names:  # readers take an absent list as empty
            for status in STATUSES:
                if status in column.needed:
                    bad = pc.and_(pc.is_null(values), pc.fill_null(_equal(table["status"], status), constant(False)))
                    yield bad, f"{name}: found null, expected a value in a row with status {status!r}"
        if values.null_count == table.num_rows:
            continue
        if column.type in ("int", "float") and name not in ANY:
            yield _outside(name, values), f"{name}: expected {_range(name)}"
        if name in WORDS:
            right = reduce(pc.or_, [_equal(values, word) for word in WORDS[name]])
            yield _not(right), f"{name}: expected {' or '.join(WORDS[name])}"
        if name in NAMES:
            right = pc.less_equal(pc.utf8_length(values), constant(LONGEST_NAME))
            yield _not(right), f"{name}: expected at most {LONGEST_NAME} characters"
        if name in PATHS:
            yield _not(pc.match_substring_regex(values, PATHS[name])), f"{name}: expected a file inside the storage"
        if column.type == "list":
            yield _holes(values), f"{name}: an entry of the list is null"
    if "status" in names:
        yield pc.is_null(table["status"]), "status: found null, expected ok, failed or skipped"
    if all(name in names for name in ASKED) and "status" in names:
        none = reduce(pc.and_, [pc.is_null(table[name]) for name in ASKED])
        yield none, f"no amount was asked for: expected a value in one of {', '.join(ASKED)}"
    if "trial" in names:
        wrong = [text is not None and not is_trial(text) for text in table["trial"].to_pylist()]
        yield array_of(bool, wrong), "trial: expected a JSON object with the fields of a trial"


def is_trial(text: str) -> bool:
    """Whether a text of the column `trial` is one as raybench writes it.

    Args:
        text: the text.

    Returns:
        Whether it is JSON with every field that readers use.

    Example:
        >>> is_trial("[]")
        False
    """
    return read_object(text.encode("utf-8", "surrogatepass"), TRIAL) is not None


def _outside(name: str, values: pa.ChunkedArray) -> Any:
    """A mask of the numbers that aren't in the range of their column. NaN is outside of every range."""
    number = int if pa.types.is_integer(values.type) else float
    least, most = _ends(name)
    over = pc.greater if name in POSITIVE else pc.greater_equal
    return _not(pc.and_(over(values, constant(number(least))), pc.less_equal(values, constant(number(most)))))


def _ends(name: str) -> tuple[float, float]:
    return (-LARGEST, LARGEST) if name in SIGNED else (0, MOST)


def _range(name: str) -> str:
    least, most = _ends(name)
    return f"a finite number {'above' if name in POSITIVE else 'from'} {least:g} to {most:g}"


def _holes(values: pa.ChunkedArray) -> Any:
    """A mask of the lists with an entry that is null."""
    flat = pc.list_flatten(values)
    if not flat.null_count:
        return array_of(bool, [False] * len(values))
    return array_of(bool, [any(entry is None for entry in each or ()) for each in values.to_pylist()])


def _equal(values: Any, word: str) -> Any:
    return pc.equal(values, constant(word))


def _not(right: Any) -> Any:
    """Where `right` is False; null, of a value that isn't there, is not wrong."""
    return pc.invert(pc.fill_null(right, constant(True)))
