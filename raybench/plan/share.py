"""The share of a GPU that `gpus: auto` gives to a cell, and the measured table from which it follows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from raybench.storage.base import Storage
from raybench.storage.json_text import is_number, is_text, read_object
from raybench.sweep.trial import Trial

COPIES = (1, 2, 4, 8)  # of a cell that are tried side by side on one GPU
FOLDER = "shares"
Group = tuple[str, ...]  # dataset and model, with their parameters


@dataclass(frozen=True)
class Copies:
    """What was measured of so many copies of a cell that trained side by side.

    Attributes:
        copies: how many.
        memory_mb: peak memory of one copy, MiB.
        step_s: seconds of one training step in each copy; their mean.
        cells_an_hour: cells of this kind that a GPU ends in an hour, counted by the steps of fine-tuning.
    """

    copies: int
    memory_mb: float
    step_s: float
    cells_an_hour: float


@dataclass(frozen=True)
class Share:
    """The table of one (model, dataset, kind of device), and the share of a GPU that follows from it.

    Attributes:
        dataset: of the cells.
        model: of the cells.
        device_name: of the GPU that was measured.
        total_mb: its memory, MiB.
        measured: one entry for each number of copies that fitted.
        why: why no more copies were measured; for an empty table why nothing was.
    """

    dataset: str
    model: str
    device_name: str
    total_mb: float
    measured: tuple[Copies, ...] = ()
    why: str = ""

    @property
    def copies(self) -> int:
        """The number of copies with most cells an hour; of equals the smallest. 1 where nothing was measured."""
        return max(self.measured, key=lambda one: (one.cells_an_hour, -one.copies)).copies if self.measured else 1

    @property
    def gpus(self) -> float:
        """Share of a GPU that a cell gets."""
        return 1 / self.copies

    @property
    def sentence(self) -> str:
        """The table in one line."""
        if not self.measured:
            return f"{self.model} on {self.dataset}: a whole GPU each, not measured: {self.why}"
        rates = ", ".join(f"{one.copies}: {one.cells_an_hour:.3g}" for one in self.measured)
        most = f"; {self.why}" if self.why else ""
        return f"{self.model} on {self.dataset}: {self.gpus:g} of a GPU each, most cells an hour ({rates}{most})"

    @property
    def note(self) -> str:
        """The same for the rows."""
        return self.sentence.partition(": ")[2]


@dataclass(frozen=True)
class Sharing:
    """The share of one (dataset, model) in a plan: None until it is measured."""

    key: str  # of the probe
    largest: Trial  # whose step is measured
    share: Share | None = None


def encode_share(share: Share) -> bytes:
    """The content of its file."""
    return json.dumps(asdict(share)).encode()


def read_share(storage: Storage, key: str) -> Share | None:
    """The share of key `key`; None where it wasn't measured yet, or its file is damaged."""
    fields = read_object(storage.read(file_of(key)), _SHARE)
    if fields is None:
        return None
    measured = tuple(Copies(**one) for one in fields["measured"])
    return Share(**{name: fields[name] for name in _SHARE} | {"measured": measured})


def file_of(key: str) -> str:
    """Storage key of the table of a probe."""
    return f"{FOLDER}/{key}.json"


def group_of(trial: Trial) -> Group:
    """What trials of one share have in common: dataset and model, with their parameters."""
    params = (sorted(trial.dataset_params.items()), sorted(trial.model_params.items()))
    return trial.dataset, trial.model, *map(str, params)


def _are_copies(value: Any) -> bool:
    names = {"copies", "memory_mb", "step_s", "cells_an_hour"}
    return isinstance(value, list) and all(
        isinstance(one, dict) and one.keys() == names and all(map(is_number, one.values())) and one["copies"] in COPIES
        for one in value
    )


_SHARE = {
    "dataset": is_text, "model": is_text, "device_name": is_text, "total_mb": is_number, "measured": _are_copies,
    "why": is_text,
}  # fmt: skip
