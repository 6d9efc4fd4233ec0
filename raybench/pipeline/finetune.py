"""Stage 5: fine-tuning of the pruned network."""

from __future__ import annotations

from pathlib import Path

from raybench.pipeline.context import StageContext
from raybench.pipeline.cut import Pruned
from raybench.pipeline.network import model_of
from raybench.storage.checkpoints import StageCheckpoint
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task, Training


def finetune(trial: Trial, dense: Path, pruned: Pruned, task: Task, context: StageContext) -> Training:
    """Fine-tune the pruned network in place, resuming after the last epoch that a killed run finished.

    `dense`: folder of the base stage, whose network is the teacher if the recipe distills.
    """
    teacher = None
    if trial.recipe.finetune.distill:
        teacher = model_of(dense, trial, task, context.device).eval()
    return task.train(
        pruned.model,
        trial.recipe.finetune,
        seed=trial.seed,
        checkpoint=StageCheckpoint(context.storage, trial.trial_id),
        teacher=teacher,
        select="test" if trial.protocol == "pruningbench" else "val",
    )
