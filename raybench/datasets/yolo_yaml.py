"""YOLO's data YAML: names of the classes; folders and lists of images wherever people's paths may mean them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raybench.datasets.tree import warn_once
from raybench.errors import UserError, counted
from raybench.sweep.nodes import parse

EXPECTED = "one folder of images, a .txt file that lists them, or a list of these"
MOST = 100_000  # classes


def read_yaml(file: Path) -> Mapping[str, Any]:
    """The content of the YAML `file`; UserError when it isn't there or is no mapping."""
    if not file.is_file():
        raise UserError(f"found no {file}; expected a YAML with names, train and val")
    content: Mapping[str, Any] = parse(file).plain()
    return content


def class_names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Class names, from a list or a mapping of 0..n-1; from `nc` alone they are class_0, class_1, ..."""
    names, number = content.get("names"), content.get("nc")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= MOST):
        raise UserError(f"{file}: nc is {number!r}; expected the number of classes, 1 to {MOST:,}")
    if names is None and number is not None:
        return tuple(f"class_{label}" for label in range(number))
    if isinstance(names, Mapping):
        wanted = list(map(str, range(len(names))))
        if {str(key) for key in names} != set(wanted):
            found = ", ".join(map(str, list(names)[:5]))
            raise UserError(f"{file}: names has the keys {found}; expected 0 to {len(names) - 1}")
        by_key = {str(key): name for key, name in names.items()}
        names = [by_key[key] for key in wanted]
    if not isinstance(names, list) or not names:
        found = "no names" if not names else f"names {names!r}"
        raise UserError(f"{file}: found {found}; expected a list of class names, or their number as nc")
    for place, name in enumerate(names):
        if isinstance(name, (list, Mapping)) or name is None:
            raise UserError(f"{file}: names[{place}] is {name!r}; expected the name of a class")
    if number not in (None, len(names)):
        raise UserError(f"{file}: nc is {number}; found {counted(len(names), 'name')}")
    return tuple(map(str, names))


def split_places(content: Mapping[str, Any], key: str, file: Path) -> tuple[Path, ...]:
    """The folders and `.txt` lists of the split `key`, resolved: one of them, or a list. UserError for others."""
    return tuple(dict.fromkeys(place.resolve() for place in named_places(content, key, file)))


def named_places(content: Mapping[str, Any], key: str, file: Path) -> tuple[Path, ...]:
    """The same places, on the way that the YAML names, links and all."""
    found = content.get(key)
    values = found if isinstance(found, list) else [found]
    if not values:
        raise UserError(f"{file}: {key} is an empty list; expected {EXPECTED}")
    places: dict[Path, None] = {}
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            name = f"{key}[{number}]" if isinstance(found, list) else key
            raise UserError(f"{file}: {name} is {value!r}; expected {EXPECTED}")
        places[_place(content, key, value.strip(), file)] = None
    return tuple(places)


def list_bases(content: Mapping[str, Any], file: Path) -> list[Path]:
    """The folders that lines of a list may start from, besides its own: where `path` says, and that of the YAML."""
    return [base.resolve() for base in (*_bases(content, file), file.parent) if base.is_dir()]


def _place(content: Mapping[str, Any], key: str, value: str, file: Path) -> Path:
    """The folder or list `value`: where `path` says, else beside the YAML, where a leading `../` may be too much.

    Variables, `~` and backslashes are understood. UserError naming all places where it was looked for.
    """
    looked: dict[Path, None] = {}
    for place in _places(content, value, file):
        if place.is_dir() or (place.suffix.lower() == ".txt" and place.is_file()):
            if content.get("path") and not any(base.is_dir() for base in _bases(content, file)):
                warn_once(f"{file}: path: found no folder {content['path']}; {key} was found beside the YAML, {place}")
            return place
        looked[place] = None
    if place_ := next((place for place in looked if place.is_file()), None):
        raise UserError(f"{file}: {key}: {place_} is a file; expected {EXPECTED}")
    what = "file" if Path(value).suffix.lower() == ".txt" else "folder"
    raise UserError(f"{file}: {key}: found no {what} {', nor '.join(map(str, looked))}")


def _places(content: Mapping[str, Any], value: str, file: Path) -> Iterator[Path]:
    """Where the folder `value` may be, the likeliest first."""
    spellings = list(dict.fromkeys([value, _expanded(value), _expanded(value).replace("\\", "/")]))
    for base in (*_bases(content, file), file.parent):
        yield from (base / spelling for spelling in spellings)
    for spelling in spellings:  # some tools export `../train/images` for the folder `train` beside the YAML
        bare = spelling
        while bare.startswith("../"):
            bare = bare.removeprefix("../")
        if bare != spelling:
            yield file.parent / bare


def _bases(content: Mapping[str, Any], file: Path) -> list[Path]:
    """The folders that `path` may mean."""
    if not content.get("path"):
        return []
    path = str(content["path"])
    return [file.parent / one for one in dict.fromkeys([path, _expanded(path), _expanded(path).replace("\\", "/")])]


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))
