"""The `speed` block of a recipe: precision, memory format, determinism, CUDA graphs, compilation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from raybench.sweep.frozen import Frozen

Precision = Literal["fp32", "tf32", "bf16"]
MemoryFormat = Literal["auto", "nchw", "channels_last"]
Switch = Literal["auto", "off"]


class Speed(Frozen):
    """How training computes. What is left out is the device's default."""

    precision: Precision | None = None  # of products in training; evaluation and scoring are fp32
    memory_format: MemoryFormat | None = None  # auto: the faster one for this very network
    deterministic: bool | None = None  # whether a GPU uses deterministic kernels only; a CPU always does
    graphs: Switch | None = None  # auto: whole steps as CUDA graphs where they can be captured
    compile: Switch | None = None  # auto: torch.compile where the time left pays for it

    def silent(self) -> Collection[str]:
        """What is left to the device."""
        return [name for name in type(self).model_fields if getattr(self, name) is None]

    def filled(self, device: str, protocol: str) -> Speed:
        """The same with every default filled in, for a trial on `device`."""
        defaults = defaults_of(device, protocol)
        return defaults.model_copy(update=self.model_dump())

    def impossible(self, device: str) -> Iterator[tuple[str, str]]:
        """(field, message) of every setting that `device` doesn't have."""
        if device == "cpu" and self.precision == "tf32":
            yield "precision", "found tf32, which only GPUs have; expected fp32 or bf16 on a CPU"

    def canonical(self, device: str, protocol: str) -> Speed:
        """Only what differs from the device's defaults and can change something there."""
        defaults = defaults_of(device, protocol).model_dump()
        idle = IDLE_ON_CPU if device == "cpu" else ()
        given = self.model_dump()
        return Speed(**{name: value for name, value in given.items() if value != defaults[name] and name not in idle})


TASKS = ("classification",)  # tasks whose training has these options
IDLE_ON_CPU = ("deterministic", "graphs")  # CPU kernels are deterministic, and there are no graphs
EXACT = Speed(precision="fp32", memory_format="nchw", deterministic=True, graphs="off", compile="off")
DEFAULTS: Mapping[str, Speed] = {
    "cpu": EXACT,
    "cuda": EXACT,  # until `make gpu` was seen to pass on a card: the options there are written and unrun
}


def defaults_of(device: str, protocol: str) -> Speed:
    """What a trial on `device` computes with where its recipe sets nothing; protocol `pruningbench` keeps fp32."""
    found = DEFAULTS[device]
    return found.model_copy(update={"precision": "fp32"}) if protocol == "pruningbench" else found
