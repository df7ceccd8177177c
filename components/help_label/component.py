from kfp.dsl import Dataset, Input, Metrics, Output

from components.decorator import component


@component
def help_label(
    collection: Input[Dataset], candidates: Input[Dataset], config: dict, worker: int, metrics: Output[Metrics]
):
    """Some of the work of `teacher_label`, in a pod beside it (`cluster.workers`).

    Args:
        collection: as `teacher_label` is given it, and so the next two.
        candidates: the pairs to label.
        config: TeacherConfig: one teacher or several, each a checkpoint or behind a server.
        worker: number of this pod, from 1; which share it begins with.
        metrics: counts and speed.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.teacher_label import help_label

    run_stage(
        help_label,
        configs={"config": config},
        inputs={"collection": collection, "candidates": candidates},
        metrics=metrics,
        worker=worker,
    )
