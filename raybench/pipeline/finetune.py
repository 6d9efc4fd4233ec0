"""Stage 5: fine-tuning of the pruned network."""

from __future__ import annotations

from torch import nn

from raybench.pipeline.context import StageContext
from raybench.pipeline.cut import Pruned
from raybench.pipeline.early_stop import Rungs
from raybench.storage.checkpoints import StageCheckpoint
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Checkpoint, Task, Training
from raybench.tasks.training.loss import needs_teacher


def finetune(trial: Trial, dense: nn.Module, pruned: Pruned, task: Task, context: StageContext) -> Training:
    """Fine-tune the pruned network in place, resuming after the last epoch that a killed run finished.

    `dense`: the base network, which is the teacher if the recipe distills, or the network's own loss needs one.
    With `early_stop` in the recipe it raises StoppedEarly where the cell is worse than others of its board.
    """
    checkpoint: Checkpoint = StageCheckpoint(context.storage, trial.trial_id)
    if trial.recipe.early_stop:
        checkpoint = Rungs(checkpoint, context.storage, trial, task.metric)
    return task.train(
        pruned.model,
        trial.tuning,
        seed=trial.seed,
        checkpoint=checkpoint,
        teacher=dense.eval() if trial.tuning.distill or needs_teacher(pruned.model) else None,
        select="test" if trial.protocol == "pruningbench" else "val",
    )
