"""Decides how many short units one trial of Tune runs: starting a trial costs as much as a short unit."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator

from raybench.execution.queue import Shape, UnitQueue
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome

# Seconds of work in one batch. Longer than a worker process takes to start: Tune stops a process that is still starting
# when another one becomes free for its trial, so with shorter trials the first process would do all the work.
BATCH_S = 15.0
LONGEST_S = 90.0  # where processes take longer to start: a loaded machine, libraries on a network drive
MOST = 1000  # units in one batch
SAMPLES = 20  # durations remembered for each kind of unit


class Batches:
    """Takes from a queue one long unit at a time, or several short ones. Durations are those seen in this run."""

    def __init__(self) -> None:
        self._batch_s = BATCH_S
        self._seconds: dict[tuple[str, ...], deque[float]] = defaultdict(lambda: deque(maxlen=SAMPLES))

    def note(self, unit: Unit, outcome: Outcome) -> None:
        """Remember how long `unit` took, if it ran to its end."""
        if outcome.status == "ok":
            self._seconds[_kind(unit)].append(outcome.seconds)

    def started(self, seconds: float) -> None:
        """Note that the first process took so long to start; the next ones will, too."""
        self._batch_s = min(max(BATCH_S, 1.5 * seconds), LONGEST_S)

    def take(
        self,
        queue: UnitQueue,
        workers: Callable[[Unit], int],
        full: Collection[Shape] = (),
        team: bool | None = None,
    ) -> Iterator[Unit]:
        """Units for one process, in the order to run them; none when no unit is ready. All ask for the same resources.

        A batch holds at most half of a worker's share of the ready units, so that all workers end at about the same
        time. A unit whose duration is unknown is a batch of its own.

        Args:
            queue: what to take from.
            workers: unit -> how many processes run such units.
            full: shapes of units of which enough were submitted.
            team: only units that several processes run together, or only the others.
        """
        unit = queue.take(full, team)
        if unit is None:
            return
        shape = queue.shape(unit.key)
        room = min(MOST, max(1, (1 + queue.ready_of(shape)) // (2 * workers(unit))))
        left = self._batch_s
        while unit is not None:
            yield unit
            room, left = room - 1, left - self._expected(unit)
            following = queue.next_of(shape)
            if room <= 0 or left <= 0 or following is None or self._expected(following) > left:
                return
            unit = queue.take_of(shape)

    def _expected(self, unit: Unit) -> float:
        """Seconds that `unit` will take; infinite when no unit of its kind has ended yet."""
        seen = self._seconds.get(_kind(unit))
        return sum(seen) / len(seen) if seen else float("inf")


def _kind(unit: Unit) -> tuple[str, ...]:
    trial = unit.trials[0]
    return (unit.kind, trial.dataset, trial.model, trial.protocol, trial.recipe.name)
