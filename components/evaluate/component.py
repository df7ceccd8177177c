from typing import List

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def evaluate(
    source_collection: Input[Dataset],
    source_candidates: Input[Dataset],
    target_collections: Input[List[Dataset]],
    target_candidates: Input[List[Dataset]],
    source_labels: Input[Dataset],
    target_labels: Input[List[Dataset]],
    phase1: Input[Model],
    phase2: Input[Model],
    config: dict,
    teacher: dict,
    champion: str,
    evaluation: Output[Dataset],
    report: Output[HTML],
    metrics: Output[Metrics],
):
    """Every system reranks the same candidates of the same test queries.

    Args:
        source_collection: collection of the source domain.
        source_candidates: its candidates.
        target_collections: collections of the target domains.
        target_candidates: their candidates, and what became of their synthetic queries.
        source_labels: training set of phase 1, which must not hold test queries.
        target_labels: training sets of phase 2, likewise.
        phase1: student after phase 1.
        phase2: student after phase 2.
        config: EvaluateConfig: measures, passages, what is timed.
        teacher: TeacherConfig.
        champion: model reference of the current champion, or empty.
        evaluation: measures for each query, runs, summary.
        report: self-contained page with the evidence; promote writes it again with the verdict.
        metrics: the headline measure for each dataset and system.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.evaluate import evaluate

    run_stage(
        evaluate,
        configs={"config": config, "teacher": teacher},
        inputs={
            "collections": [source_collection, *target_collections],
            "candidates": [source_candidates, *target_candidates],
            "labels": [source_labels, *target_labels],
            "students": {"phase1": phase1, "phase2": phase2},
        },
        outputs={"evaluation": evaluation, "report": report},
        metrics=metrics,
        champion=champion,
    )
