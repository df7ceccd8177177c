from typing import List

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def distill_phase2(
    labels: Input[List[Dataset]],
    start: Input[Model],
    source_labels: Input[Dataset],
    config: dict,
    champion: str,
    model: Output[Model],
    metrics: Output[Metrics],
):
    """Phase 2: distil on synthetic queries of every target corpus, starting from phase 1 (or the champion).

    Args:
        labels: the target domains' training sets.
        start: the phase-1 student.
        source_labels: the source's training set, some of which may be seen again.
        config: DistillConfig.
        champion: model reference of the champion, which the student may go on from, or empty.
        model: the student, a Hugging Face folder.
        metrics: losses and speed.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.distill import distill

    run_stage(
        distill,
        name="distill_phase2",
        configs={"config": config},
        inputs={"training_sets": labels, "start": start, "replay": source_labels},
        outputs={"model": model},
        metrics=metrics,
        champion=champion,
    )
