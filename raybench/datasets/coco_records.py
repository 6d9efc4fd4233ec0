"""Checks the records of a COCO instances JSON: its schema, ids that can be compared, boxes of four numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raybench.errors import UserError

NEEDS = (
    ("images", ("id", "file_name")),
    ("categories", ("id", "name")),
    ("annotations", ("image_id", "category_id", "bbox")),
)
KINDS = {int: "whole numbers", str: "text"}
LONG = 80  # characters of a value that a message shows


def read_json(file: Path) -> Any:
    """The content of a JSON file; UserError for what can't be read or is no JSON."""
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}; expected COCO instances") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not JSON: byte {error.start} is no UTF-8 text; expected COCO instances") from error
    except RecursionError as error:
        raise UserError(f"{file}: not COCO instances: lists or objects are nested too deeply") from error
    except ValueError as error:  # among them numbers with thousands of digits
        raise UserError(f"{file}: not JSON: {error}") from error


def check_schema(found: Any, where: str) -> None:
    """UserError unless `found` has COCO's lists of records with the needed keys and ids."""
    if isinstance(found, list):
        raise UserError(f"{where}: found a list, which is how COCO writes detection *results*; expected instances")
    for key, needs in NEEDS:
        rows = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(rows, list):
            raise UserError(
                f"{where}: found no list {key!r}; expected COCO instances with images, annotations, categories"
            )
        for place, row in enumerate(rows):
            lacking = [need for need in needs if not isinstance(row, Mapping) or need not in row]
            if lacking:
                raise UserError(f"{where}: {key}[{place}] has no {lacking[0]!r}; expected COCO's {', '.join(needs)}")
    for place, row in enumerate(found["images"]):
        if not isinstance(row["file_name"], str):
            raise UserError(f"{where}: images[{place}] has file_name {shown(row['file_name'])}; expected a file's name")
    for key, name in (("images", "image_id"), ("categories", "category_id")):
        kind = _kind_of_ids(found[key], key, where)
        for place, row in enumerate(found["annotations"]):
            if kind is not None and type(row[name]) is not kind:
                raise UserError(
                    f"{where}: annotations[{place}] has {name} {shown(row[name])}; "
                    f"expected {KINDS[kind]}, as the ids in {key!r} are"
                )


def _kind_of_ids(rows: Sequence[Mapping[str, Any]], key: str, where: str) -> type | None:
    """The type that all ids have; None where there are none."""
    for place, row in enumerate(rows):
        kind = type(row["id"])
        if kind not in KINDS or kind is not type(rows[0]["id"]):
            first = "" if kind not in KINDS or not place else f", as {key}[0] has {shown(rows[0]['id'])}"
            raise UserError(f"{where}: {key}[{place}] has id {shown(row['id'])}; expected ids of one type{first}")
    return type(rows[0]["id"]) if rows else None


def categories_of(rows: Sequence[Mapping[str, Any]], where: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(class names, category id -> class index), by ascending id: 1..90 with gaps becomes 0..79."""
    twice = [key for key, count in Counter(row["id"] for row in rows).items() if count > 1]
    if not rows or twice:
        raise UserError(f"{where}: " + (f"category id {twice[0]} is there twice" if twice else "`categories` is empty"))
    rows = sorted(rows, key=lambda row: row["id"])
    return tuple(str(row["name"]) for row in rows), {row["id"]: label for label, row in enumerate(rows)}


def box_of(value: Any, where: str) -> list[float]:
    """x, y, width and height; UserError for anything else. NaN passes and is counted later."""
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 4:
        raise UserError(f"{where}: bbox is {shown(value)}; expected [x, y, width, height] in pixels")
    try:
        return list(map(float, value))
    except OverflowError:
        return [math.inf] * 4  # counted with the boxes of unknown size


def is_crowd(value: Any, where: str) -> bool:
    """A record's `iscrowd` (0, 1 or missing) as a bool; UserError for anything else, such as text."""
    if value not in (None, 0, 1):
        raise UserError(f"{where}: iscrowd is {shown(value)}; expected 0 or 1")
    return bool(value)


def shown(value: Any) -> str:
    """`value` as a message shows it, cut short."""
    text = repr(value)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."
