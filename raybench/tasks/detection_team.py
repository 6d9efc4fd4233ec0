"""The loss of a detector that several processes train: that of the whole batch, of which each has some images.

Ultralytics divides its terms by the sum of the batch's target scores, so that a mean over the processes' own losses
would weigh images by what else their process has. Here each process's part is divided by the sum over all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from raybench.models.offline import offline
from raybench.tasks.detection_loss import Criterion, Loss
from raybench.tasks.training.team import Team

with offline():
    from ultralytics.utils.loss import E2ELoss


def of_whole_batches(criterion: Criterion, team: Team) -> Criterion:
    """`criterion`, changed so that the sum over the processes of `team` is the loss of the whole batch.

    To be multiplied by the whole batch's number of images over that of this process's part.
    """
    if team.size > 1:
        for branch in (criterion.one2many, criterion.one2one) if isinstance(criterion, E2ELoss) else (criterion,):
            part: Any = branch
            part.assigner = _Counting(part.assigner)
            part.loss = _Whole(part.loss, part.assigner, team)
    return criterion


class _Counting:
    """A loss's assigner that keeps the sum of the target scores."""

    def __init__(self, assigner: Callable[..., Any]) -> None:
        self._assigner, self.scores = assigner, 0.0

    def __call__(self, *given: Any, **options: Any) -> Any:
        found = self._assigner(*given, **options)
        self.scores = float(found[2].sum())
        return found


class _Whole:
    """A branch's loss, divided by the target scores of all processes in place of its own, each at least 1."""

    def __init__(self, loss: Callable[..., Loss], counted: _Counting, team: Team) -> None:
        self._loss, self._counted, self._team = loss, counted, team

    def __call__(self, preds: Mapping[str, Any], batch: dict[str, Tensor]) -> Loss:
        loss, items = self._loss(preds, batch)
        (every,) = self._team.sums(self._counted.scores)
        return loss * (max(self._counted.scores, 1.0) / max(every, 1.0)), items
