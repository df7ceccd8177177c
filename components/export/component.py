from typing import List

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def export(
    student: Input[Model],
    source_collection: Input[Dataset],
    source_candidates: Input[Dataset],
    target_collections: Input[List[Dataset]],
    target_candidates: Input[List[Dataset]],
    config: dict,
    evaluation: dict,
    exported: Output[Dataset],
    metrics: Output[Metrics],
):
    """Write the student in forms that runtimes without torch serve, each compared with its checkpoint.

    Args:
        student: the phase-2 student.
        source_collection: collection of the source domain.
        source_candidates: its candidates.
        target_collections: collections of the target domains.
        target_candidates: their candidates.
        config: ExportConfig: which variants, and how much each must agree with the checkpoint.
        evaluation: EvaluateConfig: how test queries and documents are read.
        exported: folders onnx and openvino, and variants.json with what was measured.
        metrics: rank correlation with the checkpoint, and latency, of each variant.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.export import export

    run_stage(
        export,
        configs={"config": config, "evaluation": evaluation},
        inputs={
            "student": student,
            "collections": [source_collection, *target_collections],
            "candidates": [source_candidates, *target_candidates],
        },
        outputs={"exported": exported},
        metrics=metrics,
    )
