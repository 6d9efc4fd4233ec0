"""What each unit asks for: its model's resources, a measured share of a GPU, or more after memory ran out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raybench.plan.records import Unit
from raybench.plan.share import Group, Share, Sharing, encode_share, file_of, group_of, read_share
from raybench.storage.base import Storage
from raybench.sweep.resources import Measured, Resources


@dataclass(frozen=True)
class Grant:
    """Resources of one unit. Plain data, as it is sent to another machine.

    Attributes:
        cpus: of each process of the unit; may be a fraction, as `gpus`.
        gpus: share of a GPU; 0: none.
        memory: in bytes; None: not limited.
        processes: that train the unit together.
        timeouts: seconds of a stage, by its name.
        note: for the row: why it has this share; empty where the sweep says it.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None
    processes: int = 1
    timeouts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def demand(self) -> dict[str, float]:
        """Resources that one process requests from Ray; memory in bytes."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory or 0)}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def shape(self) -> tuple[tuple[str, float], ...]:
        """The demand as a key: units of one shape may follow each other in a process."""
        return ("processes", float(self.processes)), *sorted(self.demand.items())


def granted(resources: Resources) -> Grant:
    """What each process of a unit gets of its `resources`: an equal part."""
    count = resources.team
    memory = resources.memory and -(-resources.memory // count)
    return Grant(resources.cpus / count, resources.gpus / count, memory, count, resources.timeout)


class Grants:
    """Grants of the units of one run."""

    def __init__(self, resources: Resources, storage: Storage) -> None:
        self._resources, self._storage = resources, storage
        self._models: dict[str, Resources] = {}
        self._sharings: dict[Group, Sharing] = {}
        self._more: dict[str, float] = {}  # unit -> gpus of its next start
        self._notes: dict[str, str] = {}  # unit -> what its row says about that
        self._told: set[str] = set()  # keys of probes

    def load(self, sharings: Mapping[Group, Sharing]) -> list[Share]:
        """Start on another plan, whose measured shares are `sharings`. Returns those that no plan had before."""
        self._sharings = dict(sharings)
        new = {one.key: one.share for one in sharings.values() if one.share and one.key not in self._told}
        self._told |= new.keys()
        return list(new.values())

    def measured_by(self, unit: Unit) -> Share | None:
        """What the probe `unit` has measured; None for other units."""
        share = self._share(unit) if unit.kind == "probe" else None
        self._told |= {unit.key} if share else set()
        return share

    def of(self, unit: Unit) -> Grant:
        """What `unit` gets when it starts now."""
        resources = self._of_model(unit.trials[0].model)
        grant = granted(resources)
        if isinstance(resources.gpus, Measured) and unit.kind != "probe" and (share := self._share(unit)):
            grant = replace(grant, gpus=share.gpus, note=share.note)
        note = "; ".join(filter(None, (grant.note, self._notes.get(unit.key))))
        return replace(grant, gpus=self._more.get(unit.key, grant.gpus), note=note)

    def after_memory_ran_out(self, unit: Unit) -> str:
        """Give `unit` twice its share of a GPU at its next start. Returns what its row will say."""
        share = self.of(unit).gpus
        if 0 < share < 1:
            self._more[unit.key] = min(2 * share, 1.0)
            self._notes[unit.key] = f"memory ran out at {share:g} of a GPU, started again with {self._more[unit.key]:g}"
        else:
            self._notes[unit.key] = "memory ran out, started again alone"
        return self._notes[unit.key]

    def settle_unmeasured(self, unit: Unit, why: str) -> None:
        """Write a whole GPU as the share that the probe `unit` could not measure."""
        trial = unit.trials[0]
        share = Share(trial.dataset, trial.model, "", 0.0, why=why)
        self._storage.replace(file_of(unit.key), encode_share(share))

    def _of_model(self, model: str) -> Resources:
        if model not in self._models:
            self._models[model] = self._resources.of(model)
        return self._models[model]

    def _share(self, unit: Unit) -> Share | None:
        """The measured share of a unit; None while there is none."""
        group = group_of(unit.trials[0])
        sharing = self._sharings.get(group)
        if sharing is not None and sharing.share is None:
            sharing = self._sharings[group] = replace(sharing, share=read_share(self._storage, sharing.key))
        return sharing.share if sharing else None
