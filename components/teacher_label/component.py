from kfp.dsl import Dataset, Input, Metrics, Output

from components.decorator import component


@component
def teacher_label(
    collection: Input[Dataset],
    candidates: Input[Dataset],
    config: dict,
    labels: Output[Dataset],
    metrics: Output[Metrics],
):
    """Soft labels: the teacher's two logits for every training pair.

    Args:
        collection: passages, and published soft labels where there are some.
        candidates: the pairs to label.
        config: TeacherConfig: one teacher or several, each a checkpoint or behind a server.
        labels: a self-contained training set: queries, labelled passages, logits.
        metrics: counts and speed.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.teacher_label import teacher_label

    run_stage(
        teacher_label,
        configs={"config": config},
        inputs={"collection": collection, "candidates": candidates},
        outputs={"labels": labels},
        metrics=metrics,
    )
