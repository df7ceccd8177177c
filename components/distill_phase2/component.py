from typing import List

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def distill_phase2(
    labels: Input[List[Dataset]],
    start: Input[Model],
    config: dict,
    model: Output[Model],
    metrics: Output[Metrics],
):
    """Phase 2: distil on synthetic queries of every target corpus, starting from phase 1.

    Args:
        labels: the target domains' training sets.
        start: the phase-1 student.
        config: DistillConfig.
        model: the student, a Hugging Face folder.
        metrics: losses and speed.
    """
    from inranker_flow.distillation import distill
    from inranker_flow.stage import run_stage

    run_stage(
        distill,
        name="distill_phase2",
        configs={"config": config},
        inputs={"training_sets": labels, "start": start},
        outputs={"model": model},
        metrics=metrics,
    )
