"""What a search can choose from: depths and image sizes with their costs, and whether the target is in reach at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from raybench import registry
from raybench.errors import NotSupported, UserError
from raybench.execution.one_trial import in_this_process
from raybench.execution.worker import Assignment
from raybench.pipeline.dimensions import Smallest, smallest, uncut_costs
from raybench.search.asked import Asked
from raybench.search.cells import Cells
from raybench.search.space import SLACK, Space
from raybench.sweep.image_sizes import own_size
from raybench.sweep.kinds import WHOLE
from raybench.sweep.target import TIMED, Amount
from raybench.sweep.trial import Trial

SIZES = 13  # image sizes that are tried, at most
STEPS = {"detection": 32, "large": 8}  # of image sizes; 1 below LARGE
LARGE = 96
SCATTER = 1.2  # times of one network differ by this


@dataclass(frozen=True)
class Counting:
    """Counts what a search can choose from, in this process."""

    cells: Cells
    asked: Asked
    say: Callable[[str], None]
    device: str | None = None

    def check_reach(self) -> None:
        """UserError where no network of these dimensions comes to the target, known before anything is trained."""
        asked = self.asked
        try:
            found = self._smallest()
        except NotSupported as error:
            rest = " ".join(name for name in asked.dimensions if name != "depth")
            raise UserError(f"--dimensions depth: {error}; without it: --dimensions {rest or 'width'}") from error
        target, kind = asked.target.value, asked.target.kind
        absolute = kind == "latency_ms"
        if absolute and found.whole * SCATTER < target:
            raise UserError(
                f"{asked.option}: found {target:g} ms, but the uncut network takes {found.whole:.3g} ms already"
            )
        wanted, slack = target if absolute else found.whole / target, SCATTER if kind in TIMED else SLACK
        if found.cost > wanted * slack:
            most = Amount(float(f"{found.cost if absolute else found.whole / found.cost:.3g}"), kind)
            expected = f"{'at least' if absolute else 'at most'} {most}"
            left = found.words or "the whole network, as no dimension is left"
            raise UserError(
                f"{asked.option}: found {asked.target}, expected {expected}, the cost of the smallest network of "
                f"these dimensions ({left}); nothing was trained"
            )

    def _smallest(self) -> Smallest:
        trial, width = self.cells.trials[0], "width" in self.asked.dimensions
        return in_this_process(
            trial,
            self._assignment,
            lambda context: smallest(trial, self._sizes, self._depths, self._least, width, context),
            self.say,
        )

    def space(self) -> tuple[Space, tuple[str, ...]]:
        """What can be chosen, with its costs, and why some image sizes can't be. The base is published."""
        trial, asked = self.cells.trials[0], self.asked
        found = in_this_process(
            trial,
            self._assignment,
            lambda context: uncut_costs(trial, self._sizes, self._depths, self._least, context),
            self.say,
        )
        whole = found.costs[WHOLE, None]
        space = Space(whole, found.costs, found.own, "width" in asked.dimensions, asked.target.kind, found.macs)
        if asked.target.kind == "latency_ms" and whole <= asked.target.value:
            found_ms = f"the uncut network takes {whole:.3g} ms already"
            raise UserError(f"{asked.option}: found {asked.target.value:g} ms, but {found_ms}")
        if not space.reaching(asked.target.value):
            least = min(space.uncut.values())
            most = Amount(
                float(f"{space.whole / least:.3g}" if space.kind != "latency_ms" else f"{least:.3g}"), space.kind
            )
            raise UserError(f"{asked.option}: found {asked.target}; without width these dimensions reach {most}")
        return space, found.refused

    @property
    def _assignment(self) -> Assignment:
        sweep = self.cells.sweep
        roots, resources = dict(sweep.data_roots), sweep.resources
        return Assignment(
            self.cells.storage, roots, cpus=resources.cpus, gpus=float(resources.gpus), device=self.device
        )

    @property
    def _depths(self) -> tuple[float, ...] | None:
        return (self.asked.depths or None) if "depth" in self.asked.dimensions else (WHOLE,)

    @property
    def _least(self) -> float:
        """The least share of the removable blocks that is tried: where channels go, too, not all blocks need to."""
        times, kind = self.asked.target
        if "width" not in self.asked.dimensions or kind == "latency_ms":
            return 0.0
        return 1 / times ** (2 if kind in TIMED else 1)  # time has a part that no block takes

    @property
    def _sizes(self) -> list[int | None]:
        return sizes_of(self.cells.trials[0], self.asked) if "resolution" in self.asked.dimensions else [None]


def sizes_of(trial: Trial, asked: Asked) -> list[int | None]:
    """The image sizes to choose from, the own one first, as None.

    Raises:
        UserError: the dataset's own size isn't known.
    """
    own = own_size(registry.dataset.entry(trial.dataset), trial.dataset_params)
    if not isinstance(own, int):
        raise UserError(f"--dimensions resolution: the image size of {trial.dataset} isn't known")
    if asked.sizes:
        return [None, *(size for size in asked.sizes if size != own)]
    step = STEPS["detection"] if trial.task == "detection" else STEPS["large"] if own >= LARGE else 1
    times = asked.target.value if asked.target.kind != "latency_ms" else 4.0
    alone = times if asked.target.kind in TIMED else math.sqrt(times)  # small images take more time than their pixels
    least = math.ceil(own / alone / step) * step
    smaller = list(range(own - step - own % step * (step > 1), least - 1, -step))
    every = math.ceil(len(smaller) / (SIZES - 1)) or 1
    return [None, *smaller[::every]]
