from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def distill_phase1(labels: Input[Dataset], config: dict, model: Output[Model], metrics: Output[Metrics]):
    """Phase 1: distil on supervised queries with the teacher's soft labels.

    Args:
        labels: the source domain's training set.
        config: DistillConfig, with the checkpoint to start from.
        model: the student, a Hugging Face folder.
        metrics: losses and speed.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.distill import distill

    run_stage(
        distill,
        name="distill_phase1",
        configs={"config": config},
        inputs={"training_sets": [labels], "start": None, "replay": None},
        outputs={"model": model},
        metrics=metrics,
        champion="",
    )
