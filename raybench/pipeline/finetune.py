"""Stage 5: fine-tuning of the pruned network."""

from __future__ import annotations

from torch import nn

from raybench.pipeline.context import StageContext
from raybench.pipeline.cut import Pruned
from raybench.storage.checkpoints import StageCheckpoint
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task, Training


def finetune(trial: Trial, dense: nn.Module, pruned: Pruned, task: Task, context: StageContext) -> Training:
    """Fine-tune the pruned network in place, resuming after the last epoch that a killed run finished.

    `dense`: the base network, which is the teacher if the recipe distills.
    """
    return task.train(
        pruned.model,
        trial.recipe.finetune,
        seed=trial.seed,
        checkpoint=StageCheckpoint(context.storage, trial.trial_id),
        teacher=dense.eval() if trial.recipe.finetune.distill else None,
        select="test" if trial.protocol == "pruningbench" else "val",
    )
