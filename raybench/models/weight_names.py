"""Finds a network's tensors in what a checkpoint holds: under any wrappers and prefixes, in any order and number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raybench.errors import UserError
from raybench.models.file_kinds import plain

# Segments that wrappers of modules put into names, at any place. `module` is DataParallel's and DDP's.
TRANSPARENT = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Values that tools leave in a state dict: counters of FLOPs and averages, buffers that follow from the rest.
LEFTOVERS = {
    "total_ops",
    "total_params",
    "n_averaged",
    "relative_position_index",
    "attn_mask",
    "position_ids",
}
# Where two sets of weights fit equally: the first of these names is meant, and an average or a copy only if alone.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "params", "weights", "state",
            "module", "teacher", "online_encoder", "encoder_q")  # fmt: skip
COPIES = re.compile(r"ema|swa|avg|average|momentum|encoder_k|student|target|optim|best|last|prev|old", re.IGNORECASE)
NOT_WEIGHTS = re.compile(r"(?:^|\.)(?:\w*(?:optim|sched|scaler|rng|callback|hist)|loops|lr_|amp|queue)", re.IGNORECASE)
MOST_ITEMS = 1_000_000  # entries of a checkpoint that are looked at
MOST_LEVELS = 64  # of containers in containers
MOST_NAME = 1000  # characters of a tensor's name
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")  # torchvision's names before 0.2

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """A network's tensors in a file."""

    state: dict[str, Tensor]  # in the network's names; names that it doesn't have are the file's, below its prefix
    left_out: tuple[str, ...] = ()  # names of the file's other tensors, beside those that were taken
    chosen: str = ""  # where the file holds several sets that fit: those that were taken, and those that weren't


def flat(found: Any) -> dict[str, Tensor]:
    """Every tensor in nested dicts and lists, by its dotted path; each container is looked at once.

    Raises:
        ValueError: there are more than a million entries, or containers are nested more than 64 deep.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, int, Any]] = [("", 0, found)]
    looked_at = 0
    while waiting:
        path, level, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors[path] = value
            continue
        items = _items(value)
        if items is None or id(value) in seen:
            continue
        seen.add(id(value))
        looked_at += len(items)
        if looked_at > MOST_ITEMS or level > MOST_LEVELS:
            raise ValueError("it holds too many or too deeply nested containers")
        below = [(f"{path}.{key}" if path else key, level + 1, inner) for key, inner in items]
        waiting += [one for one in reversed(below) if len(one[0]) <= MOST_NAME]
    return tensors


def _items(value: Any) -> list[tuple[str, Any]] | None:
    """The named entries of a dict or list; None for anything else."""
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items() if isinstance(key, (str, int))]
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [(str(place), inner) for place, inner in enumerate(value)]
    return None


def match(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> Match:
    """The tensors of a network with state dict `own` among `tensors` of a file.

    The prefix is chosen under which most of the network's names are found with their shapes. A second one beside it
    (`head.` beside `backbone.`) may hold what is missing under the first.

    Raises:
        UserError: two different sets of weights fit equally.
    """
    file = _distinct({name: _plain_name(name) for name in tensors if not _leftover(name, own)})
    names = _distinct({name: _plain_name(name) for name in own})
    best = max((_placed(names, file, own, tensors, depth) for depth in range(3)), key=lambda one: one[0])
    _, inner, prefixes = best
    prefix, chosen = _preferred(prefixes, inner, file, tensors, origin)
    state, used = _taken(prefix, inner, file, tensors)
    if prefix:
        missing = {own_name: name for own_name, name in inner.items() if name not in state}
        more = _beside(prefix, missing, inner, file, tensors)
        state |= more
        used |= {file_name for file_name, value in tensors.items() if any(value is one for one in more.values())}
    rivals = [one for one in prefixes if one != prefix]
    rest = [n for n in tensors if n not in used and not _leftover(n, own) and not NOT_WEIGHTS.search(n)]
    parent = _parent(prefix)
    left_out = [_plain_name(n).removeprefix(parent) for n in rest if not _plain_name(n).startswith(tuple(rivals))]
    return Match(state, tuple(left_out), chosen)


def groups_of(names: Iterable[str]) -> str:
    """Names counted by their first part, for a message: ``loss (2), aux (4)``."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{plain(name, 40)} ({count})" for name, count in counts.most_common(5))


def _leftover(name: str, own: Mapping[str, Tensor]) -> bool:
    return name.rpartition(".")[2] in LEFTOVERS and name not in own


def _plain_name(name: str) -> str:
    """`name` without the segments of wrappers."""
    if "densel" in name:
        name = OLD_DENSENET.sub(r"\1", name)
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Plain name -> name; the names themselves where two would get the same plain one."""
    found = {plain_name: name for name, plain_name in names.items()}
    return found if len(found) == len(names) else {name: name for name in names}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every (prefix, rest) of a dotted name; the prefix is empty or ends with a dot."""
    yield "", name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[: place + 1], name[place + 1 :]


def _parent(prefix: str) -> str:
    """`prefix` without its last part."""
    return prefix[: prefix.rstrip(".").rfind(".") + 1]


Fit = tuple[int, int]  # names with their shape, names


def _placed(
    names: Mapping[str, str],
    file: Mapping[str, str],
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    depth: int,
) -> tuple[Fit, dict[str, str], list[str]]:
    """(how well it fits, own names without their first `depth` parts, the file's prefixes that fit so well)."""
    inner = dict(names)
    for _ in range(depth):
        first = next(iter(inner), "").partition(".")[0] + "."
        if not inner or not all(name.startswith(first) for name in inner):
            return (0, 0), {}, [""]
        inner = {name.removeprefix(first): whole for name, whole in inner.items()}
    named, shaped = Counter[str](), Counter[str]()
    for plain_name, file_name in file.items():
        for prefix, rest in _splits(plain_name):
            if rest in inner:
                named[prefix] += 1
                shaped[prefix] += tensors[file_name].shape == own[inner[rest]].shape
    fits = {prefix: (shaped[prefix], count) for prefix, count in named.items()}
    best = max(fits.values(), default=(0, 0))
    return best, inner, [prefix for prefix, fit in fits.items() if fit == best] or [_common(file)]


def _common(file: Iterable[str]) -> str:
    """The prefix that all names share."""
    names = list(file)
    if not names:
        return ""
    shared = [prefix for prefix, _ in _splits(names[0]) if all(name.startswith(prefix) for name in names)]
    return shared[-1]


def _preferred(
    prefixes: list[str], inner: Mapping[str, str], file: Mapping[str, str], tensors: Mapping[str, Tensor], origin: str
) -> tuple[str, str]:
    """(the prefix that is meant, a note about the others); UserError when nothing says which one."""
    ranked = sorted(prefixes, key=_rank)
    if len(ranked) == 1:
        return ranked[0], ""
    first = _taken(ranked[0], inner, file, tensors)[0]
    others = [one for one in ranked[1:] if not _equal(first, _taken(one, inner, file, tensors)[0], inner.values())]
    if not others:
        return ranked[0], ""
    shown = [plain(one.rstrip(".") or "(top)", 60) for one in (ranked[0], *others)]
    if _rank(ranked[0]) == _rank(others[0]):
        raise UserError(
            f"{origin}: holds {len(shown)} sets of weights that fit this network, {', '.join(shown[:4])}, "
            "and nothing says which is meant: save that one alone"
        )
    return ranked[0], f"took the weights in {shown[0]}, not those in {', '.join(shown[1:4])}"


def _rank(prefix: str) -> tuple[bool, int]:
    """Lower for the weights that are meant: not an average or a copy, under one of the usual names."""
    parts = prefix.rstrip(".").split(".")
    known = [WRAPPERS.index(part) for part in parts if part in WRAPPERS]
    return any(COPIES.search(part) for part in parts), min(known, default=len(WRAPPERS)) if prefix else -1


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    """Whether two sets hold the same tensors under `names`."""
    return all(one[name] is other[name] or _same(one[name], other[name]) for name in names if name in one)


def _same(one: Tensor, other: Tensor) -> bool:
    dense = all(t.layout == torch.strided and not t.is_meta and not t.is_quantized for t in (one, other))
    return dense and one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _taken(
    prefix: str, inner: Mapping[str, str], file: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """(tensors below `prefix` in the network's names where it has them, their names in the file)."""
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for plain_name, file_name in file.items():
        if plain_name.startswith(prefix):
            rest = plain_name.removeprefix(prefix)
            state[inner.get(rest, rest)] = tensors[file_name]
            used.add(file_name)
    return state, used


def _beside(
    prefix: str,
    missing: Mapping[str, str],
    inner: Mapping[str, str],
    file: Mapping[str, str],
    tensors: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """What is missing under `prefix`, from the one prefix beside it that holds most of it, if only one does."""
    parent = _parent(prefix)
    found: dict[str, dict[str, Tensor]] = {}
    doubled: set[str] = set()
    for plain_name, file_name in file.items():
        if plain_name.startswith(prefix) or not plain_name.startswith(parent):
            continue
        for second, rest in _splits(plain_name):
            if rest in missing:
                found.setdefault(second, {})[missing[rest]] = tensors[file_name]
            elif rest in inner:
                doubled.add(second)  # a second network, not the rest of the first
    sizes = {second: len(state) for second, state in found.items() if second not in doubled}
    best = [second for second, size in sizes.items() if size == max(sizes.values())]
    return found[best[0]] if len(best) == 1 else {}
