"""One cell's row as text: all values by section, training curves as sparklines, layer widths."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raybench.errors import counted, failure, one_line
from raybench.reports.text import aligned, signed, wrapped
from raybench.results.columns import BY_NAME, IDENTITY, ORIGIN, OUTCOME, TIMINGS, Column
from raybench.sweep.kinds import WHOLE
from raybench.sweep.method_label import method_label
from raybench.sweep.target import amount_of

_SPARKS = "▁▂▃▄▅▆▇█"
_SECTIONS = (("identity", IDENTITY), ("outcome", OUTCOME), ("timings", TIMINGS), ("origin", ORIGIN))


def as_text(row: Mapping[str, Any], attempts: Sequence[str], reproduce: str, width: int) -> str:
    """`row` by section: values, curves, widths, provenance, keys of failed attempts, and the command `reproduce`."""
    blocks = ["\n".join(part for line in _headline(row).splitlines() for part in wrapped(line, width) or [""])]
    blocks += [_section(title, row, columns) for title, columns in _SECTIONS]
    blocks += [_curves(row["curve"] or (), width), _layers(row["layers"] or ())]
    if row["provenance"]:
        blocks.append(_section("provenance", row["provenance"], BY_NAME["provenance"].fields))
    if attempts:
        blocks.append("\n".join(["failed attempts", *(f"  {key}" for key in attempts)]))
    blocks.append(f"to reproduce\n  {reproduce}")
    return "\n\n".join(filter(None, blocks))


def _headline(row: Mapping[str, Any]) -> str:
    label = method_label(json.loads(row["trial"])) if row.get("trial") else row["method"]
    depth = f"depth {row['depth']:g} " if (row.get("depth") or WHOLE) < WHOLE else ""
    size = f"images of {row['image_size']} " if row.get("image_size") else ""
    cell = f"{label} {amount_of(row)} {row['strategy']} {depth}{size}seed {row['seed']}"
    line = f"{row['trial_id']}  {row['status']}  {row['model']} on {row['dataset']}: {cell}"
    if row["status"] == "ok":
        name, base, pruned, final = (row[n] for n in ("metric_name", "metric_base", "metric_pruned", "metric_final"))
        return f"{line}\n{name}: base {base:.2f} -> pruned {pruned:.2f} -> final {final:.2f} % ({signed(row['delta'])})"
    if row["status"] == "skipped":
        return f"{line}\nskipped: {one_line(row['reason'])}"
    text = f"{line}\nfailed in {row['stage']}: {failure(row['error_type'], row['error_message'])}"
    return text + (f"\ntraceback: {row['traceback_path']}" if row["traceback_path"] else "")


def _section(title: str, row: Mapping[str, Any], columns: Iterable[Column]) -> str:
    """`title`, then one line for every column with a value, with its unit; empty without any."""
    known = [[c.name, _measured(row[c.name], c.unit)] for c in columns if row.get(c.name) is not None]
    return "\n".join([title, *(f"  {line}" for line in aligned(known, [False, False]))]) if known else ""


def _measured(value: Any, unit: str) -> str:
    """A value with its unit, in the right number."""
    one = value == 1 and len(unit) > 2 and "/" not in unit
    return f"{_value(value)} {unit.removesuffix('s') if one else unit}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if type(value) is int and value > 9999 else str(value)


def _curves(curve: Sequence[Mapping[str, Any]], width: int) -> str:
    """One line for every stage and quantity: first value, sparkline, last value."""
    lines = []
    for stage in dict.fromkeys(entry["stage"] for entry in curve):
        for name in ("train_loss", "metric"):
            values = [e[name] for e in curve if e["stage"] == stage and e[name] is not None]
            if values:
                what = f"{stage} {name}"
                spark = sparkline(values, width - 52)
                epochs = counted(len(values), "epoch")
                lines.append(f"  {what:<20}{epochs:>11}  {values[0]:>8.4g} {spark} {values[-1]:.4g}")
    return "\n".join(["curves", *lines]) if lines else ""


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` bars between their minimum and maximum; a space where a value is not finite."""
    step = max(1, -(-len(values) // max(1, width)))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    finite = [value for value in means if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in means)


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    """Widths before and after, one layer a line."""
    if not layers:
        return ""
    longest = max(len(entry["layer"]) for entry in layers)
    lines = [f"  {'layer':<{longest}}  {'out':>13}  {'kept':>5}  {'in':>13}"]
    for entry in layers:
        before, after = entry["out_before"], entry["out_after"]
        out, into = f"{before} -> {after}", f"{entry['in_before']} -> {entry['in_after']}"
        kept = f"{100 * after / before:.0f}%" if before else "-"
        lines.append(f"  {entry['layer']:<{longest}}  {out:>13}  {kept:>5}  {into:>13}")
    return "\n".join(["widths", *lines])
